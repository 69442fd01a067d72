"""A response of server-sent events whose client reads late: the server lets writes wait for it."""

import asyncio
from typing import Any

import pytest

from roost_gateway.front.http.sse import DONE, EventStream


class LateReader:
    """Takes messages as uvicorn does for a client that does not read until `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.bodies: list[bytes] = []
        self._is_over = False

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        assert not self._is_over, "uvicorn refuses what comes after the end"
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self._is_over = not message["more_body"]


@pytest.mark.parametrize("has_event", [True, False])
async def test_a_comment_that_waits_beside_the_end_of_a_stream_does_not_follow_it(*, has_event: bool) -> None:
    client = LateReader()
    stream = EventStream(client.send, {})

    async def end() -> None:
        await stream.write([DONE] if has_event else [])
        await stream.finish()

    writing = [asyncio.create_task(end()), asyncio.create_task(stream.comment("waiting"))]
    await asyncio.sleep(0)  # both have begun
    client.reads.set()
    await asyncio.gather(*writing)
    assert client.bodies[-1] == b""
    assert (DONE.encode() in client.bodies) == has_event
