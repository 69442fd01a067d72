"""uvicorn's HTTP protocol with bounds that uvicorn does not have: on a request's head, and on a client that does not
read."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Largest request line with headers, give or take what comes in one read."""
HEAD_SECONDS = 30.0
"""Longest time from the connection, or the first byte of a later request, to the end of its headers."""
STALL_SECONDS = 60.0
"""Longest time in which a client reads nothing of what waits for it."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose requests have too large heads or take too long over them, those whose client does not
    read, and old ones after a request.

    `max_age_seconds` is the age from which a connection is old; 0 means never.
    """

    def __init__(self, *args: Any, max_age_seconds: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_age_seconds = max_age_seconds
        self._connected = self.loop.time()
        self._head_bytes = 0
        self._heads = 0
        """Heads that were complete."""
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head_timer)
        _cancel(self._stall_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._in_head, self._heads
        super().data_received(data)
        if before == (True, self._heads) and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's headers are too large.")

    def on_message_begin(self) -> None:
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._heads += 1
        _cancel(self._head_timer)
        super().on_headers_complete()
        if 0 < self._max_age_seconds < self.loop.time() - self._connected:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        _cancel(self._stall_timer)
        super().resume_writing()

    def _await_head(self) -> None:
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
