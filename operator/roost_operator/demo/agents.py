"""The demo's agents: each asks, lets the model call a tool, runs it while the session is on hold, and goes on."""

import asyncio
import time
from dataclasses import dataclass

from roost import (
    Client,
    Committed,
    Delta,
    Format,
    Message,
    Restarted,
    RoostError,
    Sampling,
    Session,
    Started,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    tool_result,
    user,
)
from roost_operator.demo.journal import Journal, Receipt
from roost_operator.demo.scene import AgentState, Phase, Scene
from roost_operator.demo.tools import CALCULATE, COUNT, EXPECTED_SECONDS, READ, SEARCH, Toolbox

CALL_TOKENS = 40
TEXT_TOKENS = 32
STEP_SECONDS = 240.0
CALL = ToolChoice(ToolChoiceMode.REQUIRED)
TEXT = ToolChoice(ToolChoiceMode.NONE)


@dataclass(frozen=True)
class Part:
    """An agent's part. A question takes a step with a tool call and one about its result; all but the last, a third."""

    name: str
    role: str
    system: str
    tools: tuple[Tool, ...]
    questions: tuple[str, ...]
    sampling: Sampling
    evict_after: int | None = None
    """Index of the question during whose tool call the agent evicts its session, or None."""

    @property
    def steps(self) -> int:
        return 3 * len(self.questions) - 1


_ROLES: tuple[tuple[str, str, tuple[Tool, ...], Sampling], ...] = (
    ("researcher", "You read documents. Be brief.", (SEARCH, READ), Sampling(temperature=0.0)),
    (
        "analyst",
        "You count and calculate. Be brief.",
        (CALCULATE, COUNT),
        Sampling(temperature=0.0, repetition_penalty=1.1),
    ),
    (
        "reviewer",
        "You review code. Be brief.",
        (READ, COUNT),
        Sampling(temperature=0.0, presence_penalty=0.4, frequency_penalty=0.2),
    ),
)

_QUESTIONS = {
    "researcher": ("Find out what this project says about the {}.", "Look for something else about it."),
    "analyst": ("How large is the folder of the {}?", "Work out how it compares with another one."),
    "reviewer": ("Review what is written about the {}.", "Look at one more document."),
}
_MORE = "Explain why that matters, in two or three sentences."

_TOPICS = ("session", "worker", "gateway", "operator", "store", "demo", "model", "cache")


def cast(sessions: int) -> list[Part]:
    """`sessions` parts over three roles; every third one evicts its session on the way."""
    parts = []
    for number in range(sessions):
        role, system, tools, sampling = _ROLES[number % len(_ROLES)]
        topic = _TOPICS[(number // len(_ROLES)) % len(_TOPICS)]
        questions = tuple(question.format(topic) for question in _QUESTIONS[role])
        # Each role has its turn, so that each role's prefix is rebuilt somewhere.
        evict_after = 1 if number % 3 == (number // 3) % 3 else None
        parts.append(Part(f"{role}-{number // 3 + 1}", role, system, tools, questions, sampling, evict_after))
    return parts


class Agent:
    """Plays one part through one client."""

    def __init__(
        self, part: Part, client: Client, gateway: int, toolbox: Toolbox, journal: Journal, scene: Scene
    ) -> None:
        self.part = part
        self.state = AgentState(part.name, part.role, gateway)
        self.evicted_tokens: int | None = None
        self.session: Session | None = None
        self._client = client
        self._toolbox = toolbox
        self._journal = journal
        self._scene = scene
        scene.agents[part.name] = self.state

    async def run(self) -> None:
        """Play the part to its end, or to an error that retries did not cure, which shows in the journal."""
        try:
            await self._play()
            self.state.phase = Phase.DONE
        except RoostError as error:
            self.state.phase = Phase.FAILED
            self._scene.tell(f"{self.part.name} gave up: {error}")

    async def _play(self) -> None:
        part = self.part
        self.session = await self._client.open(
            role=part.role, system=part.system, tools=part.tools, task="demo", request_id=f"demo-{part.name}"
        )
        self.state.session_id = self.session.id
        for number, question in enumerate(part.questions):
            calls = await self._step(self.session, 3 * number, [user(question)], CALL)
            results = await self._use_tools(self.session, calls, evict=part.evict_after == number)
            await self._step(self.session, 3 * number + 1, results, TEXT)
            if number + 1 < len(part.questions):
                await self._step(self.session, 3 * number + 2, [user(_MORE)], TEXT)

    async def _use_tools(self, session: Session, calls: tuple[ToolCall, ...], *, evict: bool) -> list[Message]:
        """Run the calls while the session is on hold."""
        if not calls:  # cut off before it was complete
            return [user("The call was incomplete. Go on without it.")]
        self.state.phase = Phase.TOOL
        seconds = sum(EXPECTED_SECONDS.get(call.name, 0.1) for call in calls)
        await session.hold(tool=calls[0].name, expect_seconds=seconds)
        if evict:
            self.evicted_tokens = await session.evict()
            self._scene.tell(f"{self.part.name} evicted its session ({self.evicted_tokens} tokens)")
        results = [tool_result(call, await asyncio.to_thread(self._answer, call)) for call in calls]
        await asyncio.sleep(seconds)
        return results

    def _answer(self, call: ToolCall) -> str:
        try:
            return self._toolbox.run(call.name, call.arguments)
        except ValueError as error:
            return f"error: {error}"

    async def _step(self, session: Session, number: int, messages: list[Message], form: Format) -> tuple[ToolCall, ...]:
        """Run a step; the journal has it before it is sent and after it is committed."""
        state, step_id = self.state, f"{self.part.name}-{number}"
        self._journal.send(session.id, step_id)
        state.phase, state.step_tokens, state.text = Phase.WAITING, 0, ""
        step = session.step(
            messages,
            step_id=step_id,
            format=form,
            sampling=self.part.sampling,
            max_tokens=CALL_TOKENS if form is CALL else TEXT_TOKENS,
            deadline=STEP_SECONDS,
        )
        begin, first, starts = time.monotonic(), 0.0, 0
        ids: list[int] = []
        async for event in step:
            if isinstance(event, Started):
                starts += 1
                state.worker = event.worker
            elif isinstance(event, Restarted):
                ids.clear()
                state.text = ""
                self._scene.tell(f"{self.part.name} restarted: {event.reason}")
            elif isinstance(event, Delta):
                first = first or time.monotonic()
                ids.extend(event.token_ids)
                state.phase, state.step_tokens = Phase.STREAMING, len(ids)
                state.text += event.text
            elif isinstance(event, Committed):
                waited = 1000 * ((first or time.monotonic()) - begin)
                self._receive(session, event, tuple(ids), waited, starts, constrained=form is CALL)
                return event.output.tool_calls
        raise AssertionError("a step's last event is Committed")

    def _receive(
        self, session: Session, event: Committed, ids: tuple[int, ...], ttft: float, starts: int, *, constrained: bool
    ) -> None:
        receipt = Receipt.of(session.id, event, ids, self.state.text, starts, constrained=constrained, ttft_ms=ttft)
        died = ["a worker"] * bool(event.failovers) + ["a gateway"] * bool(receipt.failovers_gateway)
        if died:
            self._scene.tell(f"{self.part.name} went on after {' and '.join(died)} died")
        self._journal.receive(receipt)
        self.state.steps += 1
        self.state.phase, self.state.step_tokens = Phase.IDLE, 0
