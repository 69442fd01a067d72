"""Whether a step kills the workers that run it.

A worker's death counts when the step had been accepted there and still ran, and nothing else explains it: the worker
was not draining and had not given its lease back. Then its lease runs out, or it comes back as another start, or it
says itself that its engine is gone. That is judged at once, since a worker may end for another reason later on. A
worker that goes on renewing its lease has not died, whatever became of its streams. The loss of a machine is noticed
only after the leases of its workers have run out; it looks like leases that were given back, and does not count.
"""

import asyncio
import contextlib
import time

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.worker_views import WorkerView
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.attempt import StepAttempt

MOST_DEATHS = 2
"""After so many workers have died under a step, no other one gets it."""
LOOK_SECONDS = 0.5
"""How often a lease is read of which it is not known yet whether it will be renewed."""
JUDGE_SECONDS = 2 * LEASE_TTL_SECONDS
"""A death that is not certain after this time, because the store is away, does not count."""


class Deaths:
    """The workers that died under one attempt at a step. Call `stop` in the end."""

    def __init__(self, attempt: StepAttempt, store: SessionStore, workers: Workers) -> None:
        self._pool = attempt.pool.pool
        self._session_id = attempt.session_id
        self._store = store
        self._workers = workers
        self._verdicts: dict[tuple[str, str], asyncio.Future[bool]] = {}
        """By the start of a worker that seems to have died: whether it has."""

    async def note(self, worker: WorkerState, *, engine_died: bool) -> bool:
        """Notes that the step, which the worker had accepted, broke off there. Returns whether that counts as a fault,
        as it does unless the worker is known to drain; a fault may still turn out not to be a death."""
        if self._workers.is_draining(self._pool, worker.worker_id):
            return False
        if engine_died:
            self._expect(worker, _certain())
            return True
        view = await self._view(worker.worker_id)
        if view is None:
            return True
        if view.lease.stops:
            return False
        if view.lease.boot != worker.lease.boot:
            self._expect(worker, _certain())
        else:
            self._expect(worker, asyncio.create_task(self._dies(worker.start, _lease_end(view))))
        return True

    async def are_too_many(self) -> bool:
        """Whether `MOST_DEATHS` workers have died. Where that is not certain, waits until it is, for `JUDGE_SECONDS` at
        most."""
        while True:
            self._verdicts = {start: died for start, died in self._verdicts.items() if not died.done() or died.result()}
            pending = [died for died in self._verdicts.values() if not died.done()]
            if len(self._verdicts) < MOST_DEATHS or not pending:
                return len(self._verdicts) >= MOST_DEATHS
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    def stop(self) -> None:
        """Stops judging."""
        for died in self._verdicts.values():
            died.cancel()

    def _expect(self, worker: WorkerState, died: "asyncio.Future[bool]") -> None:
        former = self._verdicts.pop(worker.start, None)
        if former is not None:  # it lived on after that
            former.cancel()
        self._verdicts[worker.start] = died

    async def _dies(self, start: tuple[str, str], lease_end: float) -> bool:
        """Whether the worker's lease runs out or another start of it comes, before it renews the lease or drains. While
        the store is away, and for the time in which workers publish themselves after it came back (`WorkerGrace`), a
        lease may have run out for want of a store, which says nothing yet."""
        worker_id, boot = start
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JUDGE_SECONDS):
                while True:
                    await asyncio.sleep(LOOK_SECONDS)
                    view = await self._view(worker_id)
                    if view is None:
                        if not self._workers.grace.is_on(self._pool):
                            return True
                    elif view.lease.boot != boot:
                        return True
                    elif view.lease.stops or _lease_end(view) > lease_end + LEASE_PERIOD_SECONDS / 2:
                        return False
        return False

    async def _view(self, worker_id: str) -> WorkerView | None:
        """The worker if its lease is in force, or None, also while the store is away."""
        with contextlib.suppress(StoreAwayError):
            return (await self._store.look(self._pool, worker_id, self._session_id)).view
        return None


def _certain() -> "asyncio.Future[bool]":
    died = asyncio.get_running_loop().create_future()
    died.set_result(True)
    return died


def _lease_end(view: WorkerView) -> float:
    return time.monotonic() + view.ms_left / 1000
