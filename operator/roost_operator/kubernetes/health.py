"""Whether the operator is alive, over HTTP for the kubelet: from its event loop, so that one that hangs says nothing.

An API server or a store that is away is no reason to end the operator: everything here is about its own progress.
"""

import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from aiohttp import web

Since = Callable[[], float | None]
"""Since when something has not moved, by the monotonic clock; None: it has nothing to do."""


class Health:
    """Parts of the operator and how long each may stand still."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Since, float]] = {}

    def watch(self, part: str, since: Since, seconds: float) -> None:
        """`part` is stuck when it has not moved for `seconds`."""
        self._parts[part] = (since, seconds)

    def forget(self, *parts: str) -> None:
        for part in parts:
            self._parts.pop(part, None)

    def stuck(self) -> Mapping[str, float]:
        """Parts that are stuck, and for how many seconds they have been standing still."""
        now = time.monotonic()
        still = {part: now - at for part, (since, _) in self._parts.items() if (at := since()) is not None}
        return {part: round(seconds, 1) for part, seconds in still.items() if seconds > self._parts[part][1]}

    async def serve(self, endpoint: str) -> web.AppRunner:
        """Answers at `http://host:port/path` with 200, or with 503 and what is stuck. The caller cleans the runner up.

        Raises OSError when the port is taken.
        """
        parts = urlsplit(endpoint)
        app = web.Application()
        app.router.add_get(parts.path or "/", self._answer)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, parts.hostname, parts.port or 80).start()
        except BaseException:
            await runner.cleanup()
            raise
        return runner

    async def _answer(self, request: web.Request) -> web.Response:
        stuck = self.stuck()
        return web.json_response({"stuck": stuck}, status=503 if stuck else 200)
