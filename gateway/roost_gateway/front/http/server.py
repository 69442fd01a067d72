"""Serves the HTTP front by uvicorn, in the event loop and the process of the gateway."""

import asyncio
import contextlib
import math
import socket
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from roost.addresses import join_address
from roost_gateway.config import ConfigError, split_address
from roost_gateway.front.http.protocol import BoundedProtocol

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: an agent's tool may take a minute between two requests."""
CUT_SECONDS = 1
"""How long requests may take to end once their steps have been cut off, and again once they have been cancelled."""


class HttpServer:
    """Serves `app` at `address`. It must be created within a running event loop."""

    def __init__(self, app: ASGIApp, address: str, max_connection_age_seconds: float = 0.0) -> None:
        self._address = address
        protocol = partial(BoundedProtocol, max_age_seconds=max_connection_age_seconds)
        # uvicorn logs each broken body as an error, and the application logs its own errors.
        self._config = uvicorn.Config(
            app,
            loop="none",
            http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = uvicorn.Server(self._config)
        self._ticking: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def start(self) -> str:
        """Binds and answers. Returns the address. Raises ConfigError when the port is taken."""
        host, port = split_address(self._address)
        self._socket = self._bind(host, port)
        # As uvicorn's own `serve`, without its signal handlers: signals are the process's.
        self._config.load()
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup([self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop(), name="uvicorn's clock")
        return join_address(host, self._socket.getsockname()[1])

    def _bind(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        dual = host == "::" and socket.has_dualstack_ipv6()
        try:
            return socket.create_server((host, port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            raise ConfigError(f"http_listen: {self._address} cannot be bound; choose another port") from error

    async def stop(self, seconds: float) -> None:
        """Accepts no connections and closes idle ones at once. Running requests may end for `seconds`, and a moment;
        then they are cancelled, which breaks streams within their bodies."""
        if self._ticking is None or self._socket is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._config.timeout_graceful_shutdown = math.ceil(seconds) + CUT_SECONDS
        await self._server.shutdown([self._socket])
        if tasks := self._server.server_state.tasks:
            await asyncio.wait(tasks, timeout=CUT_SECONDS)
