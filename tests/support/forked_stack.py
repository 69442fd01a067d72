"""Gateways and workers of a `LocalStack` as processes of fork servers, for tests that kill many of them."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fork_server import GATEWAYS, WORKERS, Forked, fork
from roost_operator.local import runner
from roost_operator.local.processes import Supervised


class ForkedProcess:
    """What `Supervised` uses of asyncio's `Process`."""

    def __init__(self, forked: Forked) -> None:
        self.pid = forked.pid
        self._forked = forked
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(forked.fileno(), self._end)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._forked.fileno())
        self._ended.set_result(self._forked.wait())


class ForkedSupervised(Supervised):
    """Forks gateways and workers; runs other commands as they are."""

    async def _spawn(self) -> Any:
        log, environment = self.command.log, {**os.environ, **self.command.environment}
        match self.command.argv:
            case [_, "-m", "roost_gateway", *arguments]:
                address, function, more = GATEWAYS.address, "roost_gateway.__main__:main", ()
            case [_, "-m", "roost_worker", *arguments]:
                address, function, more = WORKERS.address, "forked_worker:serve", (WORKERS.address, log)
            case _:
                return await super()._spawn()
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = {"command_line": arguments, "environment": environment, "log": log}
        forked = await asyncio.to_thread(fork, address, function, *more, **settings)
        self._process = ForkedProcess(forked)
        return self._process


@contextmanager
def forked_processes() -> Iterator[None]:
    """A `LocalStack` that is made in this context forks its gateways and workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Supervised", ForkedSupervised)
        yield
