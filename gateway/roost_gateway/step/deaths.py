"""Whether a step kills the workers that run it.

A worker's death counts when the step had been accepted there and still ran, and nothing else explains it: the worker
was not draining and had not given its lease back. Then its lease runs out, or it comes back as another start, or it
says itself that its engine is gone. A worker that goes on renewing its lease has not died, whatever became of its
streams. The loss of a machine is noticed only after the leases of its workers have run out; it looks like leases that
were given back, and does not count.
"""

import asyncio
import contextlib
import time

from roost.contract.lease import LEASE_PERIOD_SECONDS
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError, WorkerView
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.attempt import StepAttempt

MOST_DEATHS = 2
"""After so many workers have died under a step, no other one gets it."""
LOOK_SECONDS = 0.25
"""How often a lease is read of which it is not known yet whether it will be renewed."""


class Deaths:
    """The workers that died under one attempt at a step."""

    def __init__(self, attempt: StepAttempt, store: SessionStore, workers: Workers) -> None:
        self._pool = attempt.pool.pool
        self._session_id = attempt.session_id
        self._store = store
        self._workers = workers
        self._lease_ends: dict[tuple[str, str], float | None] = {}
        """By the start of a worker that seems to have died: when its lease runs out unless it is renewed, in seconds of
        `time.monotonic`; None when the death is certain."""

    async def note(self, worker: WorkerState, *, engine_died: bool) -> bool:
        """Notes that the step, which the worker had accepted, broke off there. Returns whether that counts as a fault,
        as it does unless the worker is known to drain; a fault may still turn out not to be a death."""
        if self._workers.is_draining(self._pool, worker.worker_id):
            return False
        if engine_died:
            self._lease_ends[worker.start] = None
            return True
        view = await self._view(worker.worker_id)
        if view is None:
            return True
        if view.lease.draining:
            return False
        self._lease_ends[worker.start] = _lease_end(view) if view.lease.boot == worker.lease.boot else None
        return True

    async def are_too_many(self) -> bool:
        """Whether `MOST_DEATHS` workers have died. Where that is not certain, waits until the worker's lease has run
        out or is renewed."""
        while len(self._lease_ends) >= MOST_DEATHS:
            uncertain = [(start, end) for start, end in self._lease_ends.items() if end is not None]
            if not uncertain:
                return True
            await asyncio.sleep(LOOK_SECONDS)
            for start, lease_end in uncertain:
                await self._judge(start, lease_end)
        return False

    async def _judge(self, start: tuple[str, str], lease_end: float) -> None:
        """Makes a death certain, or forgets it when the worker lives or drains. While the store is away, and in its
        grace period, a lease may have run out for want of a store, which says nothing yet."""
        worker_id, boot = start
        view = await self._view(worker_id)
        if view is None:
            if not self._workers.grace:
                self._lease_ends[start] = None
        elif view.lease.boot != boot:
            self._lease_ends[start] = None
        elif view.lease.draining or _lease_end(view) > lease_end + LEASE_PERIOD_SECONDS / 2:
            del self._lease_ends[start]

    async def _view(self, worker_id: str) -> WorkerView | None:
        """The worker if its lease is in force, or None, also while the store is away."""
        with contextlib.suppress(StoreAwayError):
            return (await self._store.look(self._pool, worker_id, self._session_id)).view
        return None


def _lease_end(view: WorkerView) -> float:
    return time.monotonic() + view.ms_left / 1000
