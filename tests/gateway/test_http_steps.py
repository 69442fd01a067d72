"""Conversations over HTTP through a whole gateway, to a null worker."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway_driver import Rig, gateway, world
from http_client import Answer, Connection, ask
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer, free_port
from roost_gateway.config import ConfigError, GatewayConfig
from roost_gateway.front.server import GatewayServer

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


async def test_a_configured_header_names_the_clients_conversation(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP, http_session_headers=("x-job",)) as w:
        day, night = (Agent(w.gateway.http_address, x_job=job) for job in ("day", "night"))
        await day.say("question")
        night.messages = [*day.messages]
        assert (await day.say("more")).headers["x-roost-match"] == "continued"
        assert (await night.say("more")).headers["x-roost-match"] == "forked"


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


async def test_a_marked_retry_gets_the_step_of_its_first_try(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        body = {"messages": [{"role": "user", "content": "question"}]}
        first = await ask(w.gateway.http_address, "POST", PATH, body)
        again = await ask(w.gateway.http_address, "POST", PATH, {**body, "stream": True}, x_stainless_retry_count="1")
        assert again.headers["x-roost-match"] == "attached"
        assert again.headers["x-roost-session"] == first.headers["x-roost-session"]
        assert {chunk["id"] for chunk in again.data[:-1]} == {first.json["id"]}
        assert again.data[0]["choices"][0]["delta"]["content"] == TEXT
        assert len(w.worker.starts) == 1


async def test_a_client_that_leaves_cancels_the_step_at_its_worker(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2), **HTTP) as w:
        connection = await Connection.to(w.gateway.http_address)
        await connection.send("POST", PATH, json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode())
        await w.worker.until(lambda: w.worker.starts)
        await connection.close()
        await w.worker.until(lambda: w.worker.cancels)


async def test_a_step_that_a_stopping_gateway_cuts_goes_on_at_another_one(redis_server: RedisServer) -> None:
    async with Rig(redis_server) as rig:
        worker = await rig.worker(script=Script(hang_after=2))
        body = {"messages": [{"role": "user", "content": "question"}]}
        async with gateway(redis_server, **HTTP) as server:
            cut = rig.spawn(ask(server.http_address, "POST", PATH, body))
            await worker.until(lambda: worker.starts)
            await server.stop(0.0)
            answer = await cut
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        worker.resume_output.set()
        other = await rig.gateway(**HTTP)
        again = await ask(other.http_address, "POST", PATH, body, x_stainless_retry_count="1")
        assert again.headers["x-roost-match"] == "attached"
        assert again.json["choices"][0]["message"]["content"] == TEXT
        assert worker.cancels == []
        assert len(worker.starts) == 1


async def test_models_and_metrics_are_the_gateways(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        address = w.gateway.http_address
        assert (await ask(address, "GET", "/health")).status == 200
        assert [model["id"] for model in (await ask(address, "GET", "/v1/models")).json["data"]] == ["null"]
        assert (await Agent(address).say("question", model="other")).status == 404
        assert (await Agent(address).say("question", model="null")).status == 200
        metrics = (await ask(address, "GET", "/metrics")).body.decode()
        (count,) = (line for line in metrics.splitlines() if 'outcome="POOL_NOT_FOUND"' in line)
        assert count.startswith("roost_calls_total{")
        assert f'method="{PATH}"' in count
        assert "roost_steps_committed_total{" in metrics


async def test_http_is_served_where_it_is_asked_for(redis_server: RedisServer) -> None:
    async with gateway(redis_server) as server:
        assert server.http_address == ""
    async with gateway(redis_server, http_listen="[::1]:0") as server:
        assert (await ask(server.http_address.replace("[::1]", "::1"), "GET", "/health")).status == 503
        other = GatewayServer(
            GatewayConfig(listen="127.0.0.1:0", http_listen=server.http_address, store_url=redis_server.url)
        )
        with pytest.raises(ConfigError, match="http_listen"):
            await other.start()
        await other.stop(0.0)


async def test_output_is_streamed_as_it_is_written_and_a_cut_stream_is_taken_up_by_a_retry(
    redis_server: RedisServer,
) -> None:
    async with Rig(redis_server) as rig:
        worker = await rig.worker(script=Script(hang_after=3))
        body = {"messages": [{"role": "user", "content": "question"}], "stream": True}
        first = token_text(BASE_ID).strip()
        async with gateway(redis_server, **HTTP) as server:
            connection = await Connection.to(server.http_address)
            await connection.send("POST", PATH, json.dumps(body).encode())
            await connection.head()
            await connection.until(first.encode())
            await server.stop(0.0)
            answer = await connection.end()
            await connection.close()
        assert answer.data[-1]["error"]["code"] == "worker_draining"
        assert not answer.is_complete
        worker.resume_output.set()
        other = await rig.gateway(**HTTP)
        again = await ask(other.http_address, "POST", PATH, body, x_stainless_retry_count="1")
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in again.data[:-1])
        assert (again.headers["x-roost-match"], text, again.is_complete) == ("attached", TEXT, True)
        assert len(worker.starts) == 1


async def test_a_process_serves_http(rig: Rig, tmp_path: Path) -> None:
    """In uvloop's event loop, whose transports are others than asyncio's."""
    worker = await rig.worker(script=Script(hang_after=3))
    address = f"127.0.0.1:{free_port()}"
    child = await rig.process(tmp_path, http_listen=address, drain_seconds=0.0)
    connection = await Connection.to(address)
    body = {"messages": [{"role": "user", "content": "question"}], "stream": True}
    await connection.send("POST", PATH, json.dumps(body).encode())
    await connection.head()
    await connection.until(token_text(BASE_ID).strip().encode())
    child.terminate()
    answer = await connection.end()
    assert (answer.data[-1]["error"]["code"], answer.is_complete) == ("worker_draining", False)
    assert await child.wait() == 0
    assert worker.cancels == []
    await connection.close()
