"""Commit: what is written at the end of a step, and how long it is tried."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import CommitRequest, LogEntry, StoreUnavailableError
from roost_gateway.errors import STORE_RETRY_SECONDS

COMMIT_PATIENCE_SECONDS = 30.0
"""How long after the step's deadline a commit is still tried while the store is away."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5


@dataclass(slots=True)
class StepClock:
    """When things happened in a step. Times are seconds of `time.monotonic`; 0: not yet."""

    received_at: float
    deadline: float
    first_token_at: float = 0.0
    queue_seconds: float = 0.0

    def output_came(self) -> None:
        if not self.first_token_at:
            self.first_token_at = time.monotonic()

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """What the block takes is time in a queue."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.queue_seconds += time.monotonic() - began

    @property
    def first_token_seconds(self) -> float:
        return max(0.0, self.first_token_at - self.received_at) if self.first_token_at else 0.0

    @property
    def milliseconds_left(self) -> int:
        return max(1, int((self.deadline - time.monotonic()) * 1000))


async def commit(store: SessionStore, request: CommitRequest, deadline: float) -> LogEntry:
    """Commits, again and again while the store is away; the script is idempotent by the attempt's nonce.

    Raises Refused: what the store refuses, or COMMIT_UNKNOWN when the store stayed away.
    """
    wait, give_up = _FIRST_WAIT, deadline + COMMIT_PATIENCE_SECONDS
    while True:
        try:
            async with asyncio.timeout(max(0.1, give_up - time.monotonic())):
                return await store.commit(request)
        except (StoreUnavailableError, TimeoutError) as error:
            if time.monotonic() + wait >= give_up:
                raise _unknown() from error
        await asyncio.sleep(wait)
        wait = min(_LONGEST_WAIT, wait * 2)


def _unknown() -> Refused:
    return Refused(
        Reason.COMMIT_UNKNOWN,
        "the step is complete, but the store did not confirm it; repeat the same step_id to learn the outcome",
        retry_seconds=STORE_RETRY_SECONDS,
    )
