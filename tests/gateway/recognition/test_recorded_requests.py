"""Requests that real agents sent, through the readers of the HTTP APIs: how many sessions they make."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from played_sessions import POOL, PlayedSession, played_conversations
from roost.contract.messages import Message, MessageRole, ToolCall
from roost.contract.steps import StepRequest
from roost_gateway.core.caller import ANYONE
from roost_gateway.front.http import chat_conversation, messages_conversation, responses_conversation
from roost_gateway.front.http.chat_body import CHAT, ChatBody
from roost_gateway.front.http.messages_body import MESSAGES, MessagesBody
from roost_gateway.front.http.parameters import read
from roost_gateway.front.http.responses_body import RESPONSES, ResponsesBody
from roost_gateway.recognition.canonical import cleaned, units
from roost_gateway.recognition.conversation import Conversation, Match
from wire_requests import WireRequest, requests_of

MESSAGES_API = {"aisdk-anthropic", "claude-code", "claude-code-subagent", "sdk-anthropic"}
SESSIONS = {
    "aisdk-anthropic": 1,
    "aisdk-compatible": 1,
    "claude-code": 1,
    "claude-code-subagent": 2,
    "codex": 1,
    "codex-compaction": 2,  # the call that summarises has no tools, and what follows begins with the summary
    "langgraph": 1,
    "openai-agents-chat": 1,
    "openai-agents-responses": 1,
    "opencode": 2,  # one is for the title
    "opencode-subagent": 2,
    "pi": 1,
    "pydantic-ai": 1,
    "sdk-anthropic": 1,
    "sdk-openai": 1,
}
"""Sessions of each recording, of one conversation and its resumption, sub-agents and side calls aside."""


def conversation_of(client: str, wire: WireRequest) -> Conversation:
    headers = {name.lower(): value for name, value in wire.headers.items()}
    if "input" in wire.body:
        asked = responses_conversation.conversation_of(read(ResponsesBody, RESPONSES, wire.raw)[0], {}, headers)
    elif client in MESSAGES_API:
        asked = messages_conversation.conversation_of(read(MessagesBody, MESSAGES, wire.raw)[0], headers)
    else:
        asked = chat_conversation.conversation_of(read(ChatBody, CHAT, wire.raw)[0], headers)
    return replace(asked, model=POOL)


def reply_to(asked: Conversation, later: Sequence[Conversation]) -> Message:
    """The turn that the client sends back in its next request, as the model wrote it: with a text beside each call, and
    arguments in a spelling of its own."""
    digests = [unit.digest for unit in units(cleaned(asked).messages)]
    for other in later:
        messages = cleaned(other).messages
        echoed = units(messages)
        if [unit.digest for unit in echoed[: len(digests)]] == digests and len(echoed) > len(digests):
            turn = messages[echoed[len(digests) - 1].messages : echoed[len(digests)].messages]
            calls = tuple(_as_written(call) for message in turn for call in message.tool_calls)
            text = "".join(message.content for message in turn)
            return Message(MessageRole.ASSISTANT, "I will look at it.\n" if calls else text, calls)
    return Message(MessageRole.ASSISTANT, "TASKDONE")


def _as_written(call: ToolCall) -> ToolCall:
    return replace(call, arguments_json=json.dumps(json.loads(call.arguments_json), separators=(" , ", " : ")))


@pytest.mark.parametrize("client", sorted(SESSIONS))
async def test_a_conversation_is_one_session(client: str) -> None:
    requests = [conversation_of(client, wire) for wire in requests_of(client)]
    matches = list[Match]()

    def reply(session: PlayedSession, request: StepRequest) -> Message:
        return reply_to(requests[len(matches) - 1], requests[len(matches) :])

    conversations, gateway = played_conversations(reply)
    for asked in requests:
        async with conversations.step(asked, ANYONE) as step:
            matches.append(step.recognised.match)
            assert [event async for event in step.events]
    assert len(gateway.sessions) == SESSIONS[client], matches
    assert matches.count(Match.CONTINUED) == len(requests) - SESSIONS[client]
