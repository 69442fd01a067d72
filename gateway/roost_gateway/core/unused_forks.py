"""Forks that a conversation's step was to run in: deleted when it ends without a commit."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import SessionInfo
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway
from roost_gateway.step.background import Background

_WAITS_SECONDS = (0.0, 0.05, 0.25, 1.0)
"""Before each try to delete a fork: an attempt that has just been cut off is still being ended, which does not take
long. Altogether well below an attempt's lease, so that a fork stays whose attempt another gateway may resume."""
_FINISH_SECONDS = 1.0


class UnusedForks:
    """Forks whose first step has not been committed. A fork that cannot be deleted goes with its idle time."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._background = Background()
        self._unused: set[str] = set()

    @contextmanager
    def until_used(self, fork: SessionInfo, caller: Caller) -> Iterator[None]:
        """Deletes a new fork after the block, without waiting for that, unless it is `used` by then. Its step has ended
        within the block, or goes on elsewhere."""
        self._unused.add(fork.id)
        try:
            yield
        finally:
            if fork.id in self._unused:
                self._unused.remove(fork.id)
                self._background.spawn(self._delete(fork, caller))

    def used(self, session_id: str) -> None:
        """Notes that a step of a session was committed. It need not be a fork."""
        self._unused.discard(session_id)

    async def aclose(self) -> None:
        """Waits a moment for what is being deleted."""
        await self._background.finish(_FINISH_SECONDS)

    async def _delete(self, fork: SessionInfo, caller: Caller) -> None:
        """Deletes a fork in which nothing was committed, as its head says, and no attempt lives: the same step may have
        come again, and have been begun there."""
        for wait in _WAITS_SECONDS:
            await asyncio.sleep(wait)
            try:
                await self._gateway.delete(fork.id, caller, fork.head)
            except Refused as error:
                if error.reason is Reason.ANOTHER_STEP_RUNNING:
                    continue
            return
