"""What real agents do to their histories, played after recordings of them: one conversation stays one session."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from played_sessions import POOL, PlayedSession, played_conversations
from rewriting_clients import CLIENTS, Rewrite, openai_agents
from roost.contract.events import Committed
from roost.contract.messages import Message, MessageRole, ToolCall, ToolDefinition
from roost.contract.steps import StepName, StepRequest
from roost_gateway.core.caller import ANYONE
from roost_gateway.recognition.conversation import Conversation, Match, Recognised

S, U, A, T = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL
REPLIES: Sequence[tuple[str, tuple[tuple[str, str], ...]]] = (
    (
        "I will look at the files first.",
        (("run", '{ "command" : "ls -la # caf\\u00e9", "wait" : 1.50, "top" : 2E2 }'),),
    ),
    ("", (("read", '{ "path" : "/repo/a.txt" }'), ("read", '{ "path" : "/repo/b.txt" }'))),
    ("\n\n", (("read", '{"path":"/repo/c.txt"}'),)),
    ("Both files name fruit.", ()),
)
TOOLS = (ToolDefinition("run", "Runs a command.", "{}"), ToolDefinition("read", "Reads a file.", "{}"))
TASK = Message(U, "Compare the files.")


def reply(session: PlayedSession, request: StepRequest) -> Message:
    """The recorded model's answer of that round, with ids of calls that are unique."""
    rounds = sum(message.role is A for message in session.spoken)
    rounds += sum(message.role is A for message in request.messages)
    text, calls = REPLIES[rounds % len(REPLIES)]
    ids = (f"call_{session.id.rpartition('/')[2]}_{len(session.log)}_{number}" for number in range(len(calls)))
    return Message(A, text, tuple(ToolCall(name, *call) for name, call in zip(ids, calls, strict=True)))


class Client:
    """An agent that sends its history as `rewrite` writes it. `matches` are the answers' headers."""

    def __init__(self, rewrite: Rewrite = openai_agents, **fields: Any) -> None:
        self.conversations, self.gateway = played_conversations(reply)
        self.rewrite = rewrite
        self.fields = {"model": POOL, "system": "You are an agent.", "tools": TOOLS, **fields}
        self.history: list[Message] = [TASK]
        self.matches: list[Recognised] = []
        self._rng = random.Random(7)

    async def ask(self, messages: Sequence[Message] | None = None, **fields: Any) -> Message:
        """The reply to the history, or to other messages."""
        sent = self.rewrite(self.history if messages is None else messages, self._rng)
        conversation = Conversation(**{**self.fields, "messages": tuple(sent), **fields})
        async with self.conversations.step(conversation, ANYONE) as step:
            self.matches.append(step.recognised)
            *_, committed = [event async for event in step.events]
        assert isinstance(committed, Committed)
        return committed.output

    async def round(self, text: str = "Thanks. And now?") -> None:
        """Takes a reply and answers it: its calls by results, a text by `text`."""
        output = await self.ask()
        results = [Message(T, f"result of {call.id}", tool_call_id=call.id) for call in output.tool_calls]
        self.history += [output, *(results or [Message(U, text)])]

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.round()

    @property
    def kinds(self) -> list[Match]:
        return [recognised.match for recognised in self.matches]

    @property
    def sessions(self) -> int:
        return len({recognised.session_id for recognised in self.matches})


@pytest.mark.parametrize("name", sorted(CLIENTS))
async def test_a_conversation_is_one_session_however_the_client_writes_its_turns(name: str) -> None:
    client = Client(CLIENTS[name])
    await client.rounds(6)
    assert client.kinds == [Match.NEW, *[Match.CONTINUED] * 5]
    assert client.sessions == 1


async def test_claude_code_forks_a_session_under_a_new_id_with_a_system_message_in_the_middle() -> None:
    client = Client(CLIENTS["claude_code"], family="session-1")
    await client.rounds(2)
    client.history.append(Message(S, "The session was forked."))
    await client.ask(family="session-2")
    await client.ask(family="session-1")
    assert client.kinds == [Match.NEW, Match.CONTINUED, Match.FORKED, Match.CONTINUED]
    assert client.matches[2].reason == "the history up to message 4 is another conversation's"


async def test_claude_code_asks_with_a_line_more_after_a_reply_was_cut() -> None:
    client = Client(CLIENTS["claude_code"])
    await client.round()
    async with client.conversations.step(_conversation(client), ANYONE):
        pass  # cut before its end
    client.history[-1] = replace(client.history[-1], content=client.history[-1].content + "\nYou were cut off; resume.")
    await client.ask()
    assert client.kinds[-1] is Match.CONTINUED
    assert len(client.gateway.sessions) == 1


async def test_claude_codes_billing_line_is_neither_compared_nor_rendered() -> None:
    client = Client(CLIENTS["claude_code"])
    for number in range(2):
        line = f"x-anthropic-billing-header: cc_version=2.1; cch={number:05x};\n"
        client.fields["system"] = line + "You are an agent."
        await client.round()
    assert client.kinds == [Match.NEW, Match.CONTINUED]
    assert [session.opened.system for session in client.gateway.sessions.values()] == ["You are an agent."]


async def test_opencode_sends_equal_retries_and_leaves_an_empty_message_behind() -> None:
    client = Client(CLIENTS["openai_agents"], family="ses_1")
    await client.round()
    for _ in range(6):
        async with client.conversations.step(_conversation(client), ANYONE) as step:
            client.matches.append(step.recognised)
    client.history.append(Message(A, ""))
    await client.round()
    assert client.sessions == 1
    assert client.gateway.generated == 2


async def test_opencodes_title_call_shares_the_id_and_no_session() -> None:
    client = Client(CLIENTS["opencode"], family="ses_1")
    await client.ask([Message(U, "Title for:"), TASK], system="Write a title.", tools=())
    await client.rounds(2)
    assert client.kinds == [Match.NEW, Match.NEW, Match.CONTINUED]


async def test_codex_keeps_the_calls_of_a_cut_reply() -> None:
    client = Client(CLIENTS["codex"])
    await client.round()
    kept = ToolCall("call_of_a_cut_reply", "read", "{}")
    client.history += [Message(A, "", (kept,)), Message(T, "text", tool_call_id=kept.id)]
    await client.ask()
    assert client.kinds == [Match.NEW, Match.CONTINUED]


async def test_codex_begins_a_shorter_history_after_a_compaction() -> None:
    client = Client(CLIENTS["codex"], family="thread-1")
    await client.rounds(2)
    client.history = [TASK, Message(U, "Summary: two files were read.")]
    await client.round()
    await client.round()
    assert client.kinds[2:] == [Match.NEW, Match.CONTINUED]


async def test_continue_merges_the_calls_of_two_replies_into_one_turn() -> None:
    client = Client(CLIENTS["qwen_code"])
    await client.rounds(2)
    first, *results = client.history[-3:]
    foreign = ToolCall("call_of_a_cut_reply", "read", "{}")
    merged = replace(first, tool_calls=(*first.tool_calls, foreign))
    client.history[-3:] = [merged, *results, Message(T, "twice", tool_call_id=foreign.id)]
    await client.ask()
    assert client.matches[-1].match is Match.FORKED
    assert client.matches[-1].reason == "no session has the history up to message 4"


async def test_mini_swe_agent_drops_a_turn_without_calls() -> None:
    client = Client()
    await client.rounds(4)
    client.history[-2:] = [Message(U, "Your last message had no call.")]
    await client.ask()
    assert client.matches[-1].match is Match.FORKED
    assert client.matches[-1].reason == "the session has gone on after message 7"


async def test_aider_rebuilds_the_middle_of_its_list() -> None:
    client = Client(tools=())
    client.history = [Message(U, "files"), TASK]
    output = await client.ask()
    client.history = [Message(U, "files"), Message(U, "changed files"), TASK, output, Message(U, "More.")]
    await client.ask()
    assert client.kinds == [Match.NEW, Match.IMPORTED]
    assert client.matches[-1].reason == "no session has the history up to message 4"


async def test_strands_drops_the_oldest_messages_of_its_window() -> None:
    client = Client(CLIENTS["langgraph"])
    await client.rounds(4)
    client.history = client.history[3:]
    await client.rounds(2)
    assert client.kinds[-2:] == [Match.IMPORTED, Match.CONTINUED]


async def test_qwen_code_resumes_without_a_block_of_its_first_message() -> None:
    client = Client(CLIENTS["qwen_code"])
    await client.rounds(2)
    client.history[0] = Message(U, "Compare.")
    await client.rounds(2)
    assert client.kinds[-2:] == [Match.IMPORTED, Match.CONTINUED]


async def test_qwen_codes_memory_agent_has_a_session_of_its_own() -> None:
    client = Client(CLIENTS["qwen_code"])
    await client.rounds(4)
    await client.ask([*client.history[:-1], Message(U, "What is worth remembering?")], system="Remember.", tools=())
    await client.ask()
    assert client.kinds[-2:] == [Match.IMPORTED, Match.CONTINUED]


async def test_crewai_begins_a_task_again_from_its_first_message() -> None:
    client = Client(CLIENTS["crewai"])
    await client.rounds(2)
    client.history = [TASK]
    await client.rounds(2)
    assert client.kinds == [Match.NEW, Match.CONTINUED, Match.NEW, Match.CONTINUED]
    assert client.sessions == 2


async def test_openai_agents_sends_only_what_is_new_after_a_previous_response() -> None:
    client = Client()
    history = [TASK]
    for _ in range(4):
        output = await client.ask(history)
        last = client.matches[-1]
        client.fields["previous"] = StepName(last.session_id, last.step_id)
        history = [Message(T, "result", tool_call_id=call.id) for call in output.tool_calls]
    assert client.kinds == [Match.NEW, *[Match.CONTINUED] * 3]


async def test_parallel_runs_of_one_task_are_sessions_of_their_own_all_the_way() -> None:
    """Qwen Code, pi, OpenCode and all frameworks send equal first requests; the ids of calls tell the runs apart."""
    first = Client()
    runs = [first, Client(), Client()]
    for run in runs[1:]:
        run.conversations, run.gateway = first.conversations, first.gateway
    for _ in range(5):
        for run in runs:
            await run.round()
    assert [run.sessions for run in runs] == [1, 1, 1]
    assert len(first.gateway.sessions) == 3


def _conversation(client: Client) -> Conversation:
    return Conversation(**client.fields, messages=tuple(client.history))
