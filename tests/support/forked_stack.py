"""Gateways and workers of a `LocalStack` as processes of fork servers, for tests that kill many of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fork_server import GATEWAYS, WORKERS, ForkedProcess
from roost_operator.local import runner
from roost_operator.local.processes import Supervised


class ForkedSupervised(Supervised):
    """Forks gateways and workers; runs other commands as they are."""

    async def _spawn(self) -> Any:
        log, environment = self.command.log, {**os.environ, **self.command.environment}
        match self.command.argv:
            case [_, "-m", "roost_gateway", *arguments]:
                address, function, more = GATEWAYS.start(), "roost_gateway.__main__:main", ()
            case [_, "-m", "roost_worker", *arguments]:
                address, function, more = WORKERS.start(), "forked_worker:serve", (WORKERS.start(), log)
            case _:
                return await super()._spawn()
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = {"command_line": arguments, "environment": environment, "log": log}
        self._process = await ForkedProcess.start(address, function, *more, **settings)
        return self._process


@contextmanager
def forked_processes() -> Iterator[None]:
    """A `LocalStack` that is made in this context forks its gateways and workers."""
    for server in (GATEWAYS, WORKERS):
        server.start()  # not as a child of the stack, which would kill it at its end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Supervised", ForkedSupervised)
        yield
