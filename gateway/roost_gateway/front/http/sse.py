"""Server-sent events: their text, and a response that is made of them."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

CONTENT_TYPE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `data` is text as it is, or a JSON value."""

    data: str | Mapping[str, Any]
    name: str = ""
    """Of the `event:` line, which some APIs have."""

    def encode(self) -> bytes:
        """The event on the wire. `data` has no line breaks, since JSON escapes them."""
        data = self.data if isinstance(self.data, str) else compact_json(self.data)
        head = f"event: {self.name}\n" if self.name else ""
        return f"{head}data: {data}\n\n".encode()


DONE = ServerEvent("[DONE]")
"""Ends a stream of OpenAI's completions."""


def compact_json(value: Any) -> str:
    """JSON text without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class EventStream:
    """A response of server-sent events. It begins with the first write, and only `finish` ends it tidily: when the
    application returns before, the server closes the connection within the body, which tells every client that the
    stream has failed."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        """`headers` may grow until the first write."""
        self.headers = headers
        self._send = send
        self._writing = asyncio.Lock()  # a comment may come at once with an event, or with the end
        self._is_finished = False
        self.is_started = False
        """Whether the client has the status and the headers."""
        self.has_events = False
        """Whether the client has more than comments."""
        self.last_write = asyncio.get_running_loop().time()
        """Time of the last write, by the loop's clock; at first, of the creation."""

    async def write(self, events: Iterable[ServerEvent]) -> None:
        """Sends events; waits while the client does not read."""
        body = b"".join(event.encode() for event in events)
        if body:
            self.has_events = True
            await self._write(body)

    async def comment(self, text: str) -> None:
        """Sends what every client skips, so that it sees that the connection lives. `text` has one line."""
        await self._write(f": {text}\n\n".encode())

    async def finish(self) -> None:
        """Ends the response as complete. What comes later is left out, such as a comment that had to wait."""
        async with self._writing:
            await self._start()
            self._is_finished = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, body: bytes) -> None:
        async with self._writing:
            if self._is_finished:
                return
            await self._start()
            self.last_write = asyncio.get_running_loop().time()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _start(self) -> None:
        if self.is_started:
            return
        self.is_started = True
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no", **self.headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
