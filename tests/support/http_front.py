"""The HTTP front over real sockets, before conversations that play events."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from http_answers import PlayedConversations, PlayedLife, committed
from http_client import Answer, Connection, ask
from roost.contract.api_keys import hash_api_key
from roost.contract.events import Delta, Event, TextPart
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.http.app import create_app
from roost_gateway.front.http.calls import HttpFront
from roost_gateway.front.http.server import HttpServer
from roost_gateway.telemetry import Telemetry

Play = Callable[[], AsyncIterator[Event]]
PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**BODY, "stream": True}
LIMIT = 64 * 1024
HELLO = Delta("Hel", [1], 0, 0, parts=(TextPart("Hel"),))


async def hello() -> AsyncIterator[Event]:
    yield HELLO
    yield committed("Hello")


class Front:
    """A server before played conversations."""

    def __init__(self, conversations: PlayedConversations, life: PlayedLife | None, keys: Path | None) -> None:
        self.conversations = conversations
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.telemetry = Telemetry("g", reader=self.reader, exporter=self.exporter)
        runtime: Any = life or PlayedLife(conversations)
        self.front = HttpFront(runtime, Authenticator(keys), self.telemetry, LIMIT, ("x-job",))
        self.server = HttpServer(create_app(self.front), "127.0.0.1:0")
        self.address = ""

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return await ask(self.address, method, path, body, **headers)

    async def stream(self) -> Connection:
        """A connection on which a stream has begun."""
        connection = await Connection.to(self.address)
        await connection.send("POST", PATH, json.dumps(STREAM).encode())
        await connection.head()
        return connection


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            play: Play = hello, *, keys: list[dict[str, Any]] | None = None, life: PlayedLife | None = None
        ) -> Front:
            path = tmp_path / "keys.yaml" if keys is not None else None
            if path is not None:
                path.write_text(yaml.safe_dump({"keys": keys}))
            front = Front(PlayedConversations(play), life, path)
            stack.callback(front.telemetry.close)
            front.address = await front.server.start()
            stack.push_async_callback(front.server.stop, 0.0)
            return front

        yield start


def key(name: str, *pools: str) -> dict[str, Any]:
    return {"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": list(pools)}
