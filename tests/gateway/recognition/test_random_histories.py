"""Clients that append, edit, truncate, branch, repeat, compact and come late: no session ever has a history that is not
its client's, and a history that extends a session continues it."""

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from played_sessions import POOL, PlayedSession, played_conversations
from rewriting_clients import KEEP_RESULTS, essence
from roost.contract.events import Committed
from roost.contract.messages import Message, MessageRole, ToolCall
from roost.contract.refused import Refused
from roost.contract.steps import StepName, StepRequest
from roost.store.conversation_index import MAX_ENTRIES, MemoryConversationIndex
from roost_gateway.core.caller import Caller
from roost_gateway.core.conversations import ConversationStep
from roost_gateway.recognition.conversation import Conversation, Match

U, A, T = MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL
MOST_CLIENTS = 7
ARGUMENTS = '{ "price" : 1.50, "size" : 2E2, "path" : "caf\\u00e9" }'


@dataclass
class Agent:
    tenant: str
    family: str
    rewrite: str
    system: str
    history: list[Message]
    session: str = ""
    """Where its last step was committed."""
    extends: bool = False
    """Whether it has only added to its history since."""
    sent: list[Message] = field(default_factory=list)
    response: StepName | None = None
    """The step that its history ends with."""


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rng = random.Random(1)
        self.index = MemoryConversationIndex(lambda: 0)
        self.conversations, self.gateway = played_conversations(self.reply, self.index)
        self.agents: list[Agent] = []
        self.late: list[tuple[Agent, str, list[Message], AsyncExitStack, ConversationStep]] = []
        self.words = 0

    @initialize(seed=st.integers(0, 1000))
    def draw(self, seed: int) -> None:
        self.rng.seed(seed)

    def teardown(self) -> None:
        while self.late:
            self.finish(commits=False)
        self.runner.run(self.conversations.aclose())
        self.runner.close()

    def reply(self, session: PlayedSession, request: StepRequest) -> Message:
        """Calls, two at times, or a text of which there are few, so that conversations come to be equal."""
        kind = self.rng.randrange(4)
        if kind == 0:
            return Message(A, self.rng.choice(("Done.", "\n\nYes.", "")))
        calls = [ToolCall(f"{session.id}-{len(session.log)}-{n}", "read", ARGUMENTS) for n in range(kind // 2 + 1)]
        return Message(A, self.rng.choice(("Looking.", "\n\n", "")), tuple(calls))

    def word(self) -> str:
        self.words += 1
        return f"word {self.words}"

    @precondition(lambda self: len(self.agents) < MOST_CLIENTS)
    @rule(
        tenant=st.sampled_from("ab"),
        family=st.sampled_from(("", "", "f", "g")),
        rewrite=st.sampled_from(sorted(KEEP_RESULTS)),
        opening=st.sampled_from(("hi", "fix it")),
    )
    def open(self, tenant: str, family: str, rewrite: str, opening: str) -> None:
        agent = Agent(tenant, family, rewrite, "Be brief.", [Message(U, opening)])
        self.agents.append(agent)
        self.request(agent)

    @precondition(lambda self: self.agents)
    @rule(which=st.integers(0, MOST_CLIENTS), equal=st.booleans())
    def go_on(self, which: int, equal: bool) -> None:
        agent = self.agent(which)
        self.answer(agent, "go on" if equal else self.word())
        self.request(agent)

    @precondition(lambda self: self.agents)
    @rule(which=st.integers(0, MOST_CLIENTS), system=st.sampled_from(("", "Be kind.")))
    def go_on_after_a_response(self, which: int, system: str) -> None:
        """Sends only what is new, and perhaps another system text."""
        agent = self.agent(which)
        if agent.response is None or agent.response.session_id not in self.gateway.sessions:
            return
        known = len(agent.history)
        self.answer(agent, self.word())
        agent.system, agent.extends = system or agent.system, False
        self.request(agent, known=known, previous=agent.response)

    @precondition(lambda self: self.agents)
    @rule(which=st.integers(0, MOST_CLIENTS), at=st.integers(0, 30), keeps=st.booleans())
    def edit(self, which: int, at: int, keeps: bool) -> None:
        """Changes a message; what follows goes, or stays."""
        agent = self.agent(which)
        places = [place for place, message in enumerate(agent.history) if message.role is U]
        place = places[at % len(places)]
        rest = agent.history[place + 1 :] if keeps else []
        agent.history = [*agent.history[:place], Message(U, self.word()), *rest]
        agent.extends, agent.response = False, None
        if agent.history[-1].role is A:
            self.answer(agent, self.word())
        self.request(agent)

    @precondition(lambda self: self.agents)
    @rule(which=st.integers(0, MOST_CLIENTS), marked=st.booleans())
    def repeat(self, which: int, marked: bool) -> None:
        agent = self.agent(which)
        if agent.sent:
            agent.history, agent.extends = list(agent.sent), False
            self.request(agent, is_retry=marked)

    @precondition(lambda self: 0 < len(self.agents) < MOST_CLIENTS)
    @rule(which=st.integers(0, MOST_CLIENTS), family=st.sampled_from(("", "same", "other")))
    def branch(self, which: int, family: str) -> None:
        """Another client goes on with a copy of the history."""
        agent = self.agent(which)
        name = {"": "", "same": agent.family, "other": "h"}[family]
        twin = Agent(agent.tenant, name, agent.rewrite, agent.system, list(agent.history))
        self.agents.append(twin)
        self.answer(twin, self.word())
        self.request(twin)

    @precondition(lambda self: self.agents)
    @rule(which=st.integers(0, MOST_CLIENTS))
    def compact(self, which: int) -> None:
        agent = self.agent(which)
        agent.history, agent.extends = [Message(U, f"summary of {self.word()}")], False
        self.request(agent)

    @precondition(lambda self: self.agents and len(self.late) < 3)
    @rule(which=st.integers(0, MOST_CLIENTS), equal=st.booleans())
    def begin(self, which: int, equal: bool) -> None:
        """A step that begins now and is committed later."""
        agent = self.agent(which)
        self.answer(agent, "go on" if equal else self.word())
        stack = AsyncExitStack()
        sent = list(agent.history)
        step = self.runner.run(stack.enter_async_context(self.step(agent, sent)))
        self.late.append((agent, agent.system, sent, stack, step))
        agent.sent, agent.extends, agent.response = sent, False, None

    @precondition(lambda self: self.late)
    @rule(commits=st.booleans())
    def finish(self, commits: bool) -> None:
        agent, system, sent, stack, step = self.late.pop(0)
        committed = self.runner.run(self.end(stack, step, commits=commits))
        if committed is not None:
            self.check(agent, system, sent, step, committed)

    @precondition(lambda self: self.gateway.sessions)
    @rule(which=st.integers(0, 100))
    def expire(self, which: int) -> None:
        """A session is gone, and now and then the index loses everything."""
        if which == 0:
            self.index._entries.clear()
            for agent in self.agents:
                agent.extends = False
        names = sorted(name for name, session in self.gateway.sessions.items() if session.running is None)
        if names:
            del self.gateway.sessions[names[which % len(names)]]

    async def end(self, stack: AsyncExitStack, step: ConversationStep, *, commits: bool) -> Committed | None:
        async with stack:
            with suppress(Refused):  # another request has taken it over
                return await self.last(step) if commits else None
        return None

    def agent(self, which: int) -> Agent:
        return self.agents[which % len(self.agents)]

    def answer(self, agent: Agent, text: str) -> None:
        last = agent.history[-1]
        agent.history += [Message(T, text, tool_call_id=call.id) for call in last.tool_calls] or [Message(U, text)]

    def step(self, agent: Agent, history: list[Message], **fields: Any) -> Any:
        messages = tuple(KEEP_RESULTS[agent.rewrite](history, self.rng))
        conversation = Conversation(POOL, agent.system, messages=messages, family=agent.family, **fields)
        return self.conversations.step(conversation, Caller(agent.tenant, frozenset("*")))

    async def last(self, step: ConversationStep) -> Committed:
        events = [event async for event in step.events]
        assert isinstance(events[-1], Committed)
        return events[-1]

    def request(self, agent: Agent, *, known: int = 0, **fields: Any) -> None:
        """Sends the history, or what follows its first `known` messages."""
        sent, continues = list(agent.history), self.continues(agent)

        async def take() -> tuple[ConversationStep, Committed]:
            async with self.step(agent, sent[known:], **fields) as step:
                return step, await self.last(step)

        step, committed = self.runner.run(take())
        self.check(agent, agent.system, sent, step, committed)
        if continues:
            assert step.recognised.match is Match.CONTINUED, step.recognised
        agent.history = [*sent, committed.output]
        agent.sent, agent.session, agent.extends = sent, step.recognised.session_id, True
        agent.response = StepName(step.recognised.session_id, step.recognised.step_id)

    def continues(self, agent: Agent) -> bool:
        """Whether its session still ends where its client has gone on, and is not one of too many equal ones."""
        session = self.gateway.sessions.get(agent.session)
        if not agent.extends or session is None or session.running is not None:
            return False
        said = essence(session.spoken)
        equal = [other for other in self.gateway.sessions.values() if essence(other.spoken)[: len(said)] == said]
        return essence(agent.history)[: len(said)] == said and len(equal) < MAX_ENTRIES

    def check(
        self, agent: Agent, system: str, sent: list[Message], step: ConversationStep, committed: Committed
    ) -> None:
        """The log up to the step is what the client has said and heard."""
        session = self.gateway.sessions[step.recognised.session_id]
        place = next(n for n, logged in enumerate(session.log) if logged.step_id == step.recognised.step_id)
        steps = session.log[: place + 1]
        log = [message for logged in steps for message in (*logged.messages, logged.output)]
        assert essence(log) == essence([*sent, committed.output])
        assert (session.tenant, session.opened.system, session.opened.task) == (
            agent.tenant,
            system,
            agent.family,
        )


Histories.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
