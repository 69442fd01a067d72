"""The same conversation over HTTP and over gRPC has the same token log, whatever its texts hold."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent_stack import MODEL, AgentStack, Said, agent_stack
from http_client import ask
from redis_servers import RedisServer
from roost import Message, Session, StepResult, Tool, tool_result, user

CONVERSATIONS = 200 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 50
SPACES = (" ", "\n", "\t", "\r\n", "\n\n", "  two", "\u200b", "\ufeff", "\x00")
LETTERS = ("é", "e\u0301", "日本", "🙂", "plain", '"quoted"')
MARKS = ("<|im_end|>", "<|im_start|>system\n", "<|endoftext|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
SYNTAX = ("{{ x }}", "{% if %}", "[INST]", "</s>")
PIECES = (*SPACES, *LETTERS, *MARKS, *SYNTAX)
READ = Tool("read", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
CHAT_TOOL = {
    "type": "function",
    "function": {"name": READ.name, "description": READ.description, "parameters": dict(READ.parameters)},
}


def odd_text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randint(1, 8)))


def reply(turns: Sequence[Said]) -> str:
    """Odd text, or calls with odd arguments; it depends on the conversation alone."""
    rng = random.Random(repr(turns))
    text = odd_text(rng).replace("<tool_call>", "").replace("<think>", "").replace("<|", "")
    if rng.random() < 0.5 or '"name": "read"' not in turns[0].text:
        return text + "."
    calls = [json.dumps({"name": "read", "arguments": {"path": odd_text(rng)}}) for _ in range(rng.randint(1, 3))]
    return "".join([text, *(f"\n<tool_call>\n{call}\n</tool_call>" for call in calls)])


class OverGrpc:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def say(self, messages: Sequence[Message]) -> StepResult:
        return await self._session.run(list(messages), max_tokens=400)


class OverHttp:
    """Sends all of the history with every request, as clients do."""

    def __init__(self, address: str, system: str, *, with_tools: bool) -> None:
        self._address = address
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._tools = {"tools": [CHAT_TOOL]} if with_tools else {}
        self.session_id = ""

    async def say(self, messages: Sequence[Message]) -> dict[str, Any]:
        for message in messages:
            link = {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
            self._messages.append({"role": message.role.value, "content": message.content, **link})
        body = {"model": MODEL, "messages": self._messages, "max_tokens": 400, **self._tools}
        answer = await ask(self._address, "POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        assert self.session_id in ("", answer.headers["x-roost-session"]), answer.headers
        self.session_id = answer.headers["x-roost-session"]
        said: dict[str, Any] = answer.json["choices"][0]["message"]
        self._messages.append(said)
        return said


async def log_of(stack: AgentStack, session_id: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    steps = stack.client.session(session_id).steps(include_token_ids=True)
    return [(step.prompt_token_ids, step.output_token_ids) async for step in steps]


async def converse(stack: AgentStack, rng: random.Random) -> None:
    system, with_tools = (odd_text(rng) if rng.random() < 0.7 else ""), rng.random() < 0.7
    session = await stack.client.open(system=system, tools=[READ] if with_tools else [])
    grpc, http = OverGrpc(session), OverHttp(stack.http.removeprefix("http://"), system, with_tools=with_tools)
    grpc_next, http_next = 2 * [[user(odd_text(rng))]]
    for _ in range(rng.randint(2, 4)):
        by_grpc, by_http = await grpc.say(grpc_next), await http.say(http_next)
        calls = by_http.get("tool_calls", [])
        assert (by_http["content"] or "") == by_grpc.content
        assert [call["function"]["arguments"] for call in calls] == [call.arguments_json for call in by_grpc.tool_calls]
        texts = [odd_text(rng) for _ in calls]
        grpc_next = [tool_result(call, text) for call, text in zip(by_grpc.tool_calls, texts, strict=True)]
        http_next = [Message("tool", text, tool_call_id=call["id"]) for call, text in zip(calls, texts, strict=True)]
        if not calls:
            grpc_next = http_next = [user(odd_text(rng))]
    assert await log_of(stack, http.session_id) == await log_of(stack, session.id)


async def test_odd_conversations_have_equal_logs(redis_server: RedisServer, tmp_path: Path) -> None:
    async with agent_stack(redis_server, tmp_path, reply, context=1 << 14) as stack:
        for seed in range(CONVERSATIONS):
            await converse(stack, random.Random(seed))
