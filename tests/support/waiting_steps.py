"""Steps that wait in one gateway, over a ledger of full workers in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from leases import lease_of
from roost.contract.events import Queued
from roost.contract.heads import Head
from roost.store.entry import Reserved
from roost.store.records import Reservation, StoreAwayError
from roost.store.store_health import StoreHealth
from roost.store.wake import Wake
from roost.store.worker_views import WorkerLook, WorkerView
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.placement import Placement
from step_attempts import attempt_of, descriptor_of, with_need

POOL = "test/lines"
CAPACITY = 1000


class Ledger:
    """A store of two full workers, one of each revision, that keeps what it is asked."""

    def __init__(self) -> None:
        self.views = {
            revision: WorkerView(
                lease_of(revision, model_revision=revision, capacity_tokens=CAPACITY, max_running=8), 9000, CAPACITY, 1
            )
            for revision in ("rev-1", "rev-2")
        }
        self.cached = 0
        self.asked: list[tuple[str, str]] = []
        """Step's session and worker of each call of `reserve`."""
        self.released: list[str] = []
        """Sessions of the steps that gave their place up."""
        self.away = False
        self.wakes_sent: asyncio.Queue[Wake] = asyncio.Queue()

    def grace_seconds(self, pool: str) -> float:
        return 0.0

    async def reserve(self, reservation: Reservation) -> Reserved:
        self.asked.append((reservation.session_id, reservation.worker_id))
        view = self.views[reservation.worker_id]
        if view.reserved_tokens + reservation.tokens > CAPACITY:
            return Reserved(granted=False)
        self.views[reservation.worker_id] = replace(view, reserved_tokens=view.reserved_tokens + reservation.tokens)
        return Reserved(granted=True)

    async def release(self, reservation: Reservation) -> None:
        if self.away:
            raise StoreAwayError
        self.released.append(reservation.session_id)

    async def look(self, pool: str, worker_id: str, session_id: str) -> WorkerLook:
        return WorkerLook(self.views[worker_id], self.cached)

    async def workers(self, pool: str) -> list[WorkerView]:
        return list(self.views.values())

    async def wakes(self, pool: str) -> AsyncIterator[Wake]:
        while True:
            yield await self.wakes_sent.get()

    def end_a_step(self, worker: str, held: int) -> None:
        self.views[worker] = replace(self.views[worker], reserved_tokens=held, reserved_attempts=0)
        self.wakes_sent.put_nowait(Wake(worker, held, 0))

    async def pools(self) -> list[str]:
        return [POOL]

    async def pool_document(self, pool: str) -> dict[str, Any]:
        return {"model": {"name": "m"}, "activeRevision": "rev-2", "sessions": {"onModelChange": "Refuse"}}

    async def health(self) -> StoreHealth:
        return StoreHealth(True, (), "run", uptime_seconds=10**6)


class Lines:
    """Steps that wait in one gateway over the ledger."""

    def __init__(self, ledger: Any = None) -> None:
        self.ledger = ledger or Ledger()
        store: Any = self.ledger  # what these tests need of a store
        self.fleet = Fleet(store, [POOL], {})
        self.placement = Placement(store, self.fleet)
        self.placed: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def wait(
        self, name: str, revision: str, *, new_session: bool = False, tenant: str = "tenant", **need: Any
    ) -> StepAttempt:
        """Adds a step that is known to wait; one of a new session is of a lower class."""
        started = asyncio.get_running_loop().create_future()

        async def place() -> None:
            pool = self.fleet.pools.known(POOL)
            assert pool is not None
            session = descriptor_of(name, **({"head": Head()} if new_session else {}))
            attempt = attempt_of(pool, session, tenant=tenant)
            with_need(attempt, **{"model_revision": revision, "log_tokens": 100, "new_tokens": 100, **need})
            started.set_result(attempt)
            await self.placement.place(attempt)
            self.placed.append(name)

        self.tasks.append(asyncio.create_task(place()))
        attempt: StepAttempt = await started
        assert isinstance(await anext(attempt.outbox.events()), Queued)
        await self.settle()
        return attempt

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.placement.aclose()
