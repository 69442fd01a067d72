"""A client of responses with `background: true`, at gateways over null workers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from gateway_driver import LIMIT_SECONDS, World
from http_client import Answer, Connection, ask
from null_script import BASE_ID, token_text
from roost_gateway.front.server import GatewayServer

PATH = "/v1/responses"
HTTP: dict[str, Any] = {"http_listen": "127.0.0.1:0"}
TEXT = "".join(token_text(BASE_ID + number) for number in range(8))
OVER = ("completed", "incomplete", "failed", "cancelled")


async def create(gateway: GatewayServer, input_: Any = "hello", **fields: Any) -> Answer:
    body = {"input": input_, "model": "null", "background": True, **fields}
    return await ask(gateway.http_address, "POST", PATH, body)


async def get(gateway: GatewayServer, response: dict[str, Any], query: str = "") -> Answer:
    return await ask(gateway.http_address, "GET", f"{PATH}/{response['id']}{query}")


async def resume(gateway: GatewayServer, response: dict[str, Any], after: int) -> Answer:
    return await get(gateway, response, f"?stream=true&starting_after={after}")


async def cancel(gateway: GatewayServer, response: dict[str, Any]) -> Answer:
    return await ask(gateway.http_address, "POST", f"{PATH}/{response['id']}/cancel")


async def status(gateway: GatewayServer, response: dict[str, Any], *wanted: str) -> dict[str, Any]:
    """The response once its status is one of these."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            answer = await get(gateway, response)
            assert answer.status == 200, answer.body
            if answer.json["status"] in wanted:
                return dict(answer.json)


def stream(gateway: GatewayServer, until: str = "output_text.delta") -> AbstractAsyncContextManager[Connection]:
    """A background stream that has come to an event."""
    return stream_at(gateway.http_address, until)


@asynccontextmanager
async def stream_at(address: str, until: str = "output_text.delta") -> AsyncIterator[Connection]:
    connection = await Connection.to(address)
    body = {"input": "hello", "model": "null", "background": True, "stream": True}
    try:
        await connection.send("POST", PATH, json.dumps(body).encode())
        assert (await connection.head()).status == 200
        await connection.until(until.encode())
        yield connection
    finally:
        await connection.close()


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def check_whole(events: list[dict[str, Any]]) -> None:
    """Numbers without gap or repetition, and the whole text."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events[:3]] == ["created", "queued", "in_progress"]
    assert (events[-1]["type"], said(events)) == ("response.completed", TEXT)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


def go_on(w: World) -> None:
    w.worker.script.hang_after = None
    w.worker.resume_output.set()
