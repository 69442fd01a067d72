"""Conversations over HTTP through a whole gateway, to a null worker."""

import json
from typing import Any

import pytest

from gateway_driver import Rig, step_request, world
from http_client import Answer, Connection, ask
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost_gateway.config import ConfigError, GatewayConfig

PATH = "/v1/chat/completions"
HTTP = {"http_listen": "127.0.0.1:0"}
TEXT = "".join(token_text(BASE_ID + number) for number in range(8))


class Agent:
    """A client that sends its whole history with every request."""

    def __init__(self, address: str, **headers: str) -> None:
        self._address, self._headers = address, headers
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]

    async def say(self, text: str, **fields: Any) -> Answer:
        self.messages.append({"role": "user", "content": text})
        answer = await ask(self._address, "POST", PATH, {"messages": self.messages, **fields}, **self._headers)
        if answer.status == 200 and not fields.get("stream"):
            self.messages.append(answer.json["choices"][0]["message"])
        elif answer.status == 200:
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in answer.data[:-1])
            self.messages.append({"role": "assistant", "content": text})
        return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_is_one_session(redis_server: RedisServer, stream: bool) -> None:
    async with world(redis_server, **HTTP) as w:
        agent = Agent(w.gateway.http_address)
        answers = [await agent.say(f"question {number}", stream=stream, model="null") for number in range(3)]
        assert [answer.headers["x-roost-match"] for answer in answers] == ["new", "continued", "continued"]
        (session_id,) = {answer.headers["x-roost-session"] for answer in answers}
        assert agent.messages[-1]["content"] == TEXT
        assert all(answer.is_complete for answer in answers)
        session = await w.caller.get(session_id)
        assert session.steps == 3


async def test_usage_counts_all_of_the_context(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        agent = Agent(w.gateway.http_address)
        usages = [(await agent.say("question")).json["usage"] for _ in range(2)]
        assert [usage["prompt_tokens"] for usage in usages] == [4, 16]
        assert [usage["completion_tokens"] for usage in usages] == [8, 8]
        assert usages[1]["prompt_tokens_details"]["cached_tokens"] == 11


@pytest.mark.parametrize("asked", [8192, 128_000])
async def test_more_output_than_the_role_allows_may_be_asked_for(redis_server: RedisServer, asked: int) -> None:
    async with world(redis_server, **HTTP) as w:
        for role in ("coder", "critic"):
            answer = await Agent(w.gateway.http_address, x_roost_role=role).say("question", max_tokens=asked)
            assert answer.status == 200, answer.json
