"""Finds a step its worker: choose and reserve at once, or wait in the pool's queue until something is released."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from roost.contract.reasons import Reason
from roost_gateway.admission import AdmissionQueue, QueueFullError, Ticket
from roost_gateway.attempts import LEASE_MS, HeldAttempt
from roost_gateway.errors import GatewayError, unavailable
from roost_gateway.pools import PoolView
from roost_gateway.routing import Choice, StepNeed, WorkerState, choose, serves_revision
from roost_gateway.store.interface import SessionStore
from roost_gateway.store.records import RefusedError, Reservation, StoreUnavailableError
from roost_gateway.workers import Workers

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ask:
    """One step that wants a worker. Times are seconds of `time.monotonic`."""

    pool: PoolView
    held: HeldAttempt
    need: StepNeed
    tenant: str
    priority: int
    continuation: bool
    deadline: float
    avoid: dict[str, float] = field(default_factory=dict)
    """Worker ids that this step avoids, and until when."""
    started: bool = False
    """A step that has begun waits until its deadline and is never refused for a full queue."""

    def excluded(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(worker for worker, until in self.avoid.items() if until > now)


@dataclass(slots=True, eq=False)
class _Waiter:
    ask: Ask
    ticket: Ticket
    found: "asyncio.Future[WorkerState]"


class Placement:
    """The queues of all pools of one gateway."""

    def __init__(self, store: SessionStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._queues: dict[str, AdmissionQueue] = defaultdict(AdmissionQueue)
        self._waiters: dict[Ticket, _Waiter] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._listeners: dict[str, asyncio.Task[None]] = {}

    def queue(self, pool: str) -> AdmissionQueue:
        return self._queues[pool]

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return [
            (count, {"pool": pool, "class": name})
            for pool, queue in self._queues.items()
            for name, count in queue.waiting_by_class()
        ]

    async def aclose(self) -> None:
        tasks = [*self._pumps.values(), *self._listeners.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def place(self, ask: Ask, on_queued: Callable[[int], None]) -> WorkerState:
        """A worker on which the step's tokens are reserved. `on_queued` is told the steps before it when it waits.

        Raises GatewayError: QUEUE_FULL, QUEUE_TIMEOUT, NO_WORKER, MODEL_REVISION_MISMATCH; RefusedError: FENCED;
        StoreUnavailableError.
        """
        ticket = self._ticket(ask)
        if not self._queues[ask.pool.pool].ahead(ticket, time.monotonic()):
            worker = await self._place_now(ask)
            if worker is not None:
                return worker
        self._check_revision(ask)
        return await self._wait(ask, ticket, on_queued)

    def kick(self, pool: str) -> None:
        """Something was released or learned: those who wait try again."""
        if not self._queues[pool]:
            return
        if pool in self._pumps:
            self._again.add(pool)
            return
        self._pumps[pool] = asyncio.create_task(self._pump(pool), name=f"admit to {pool}")

    async def _place_now(self, ask: Ask) -> WorkerState | None:
        try:
            choice = self._choose(ask)
            if choice is not None and await self._reserve(ask, choice):
                return choice.worker
            await self._workers.refresh(ask.pool.pool)
            second = self._choose(ask)
            if second is None or (choice is not None and second.worker.worker_id == choice.worker.worker_id):
                return None
            return second.worker if await self._reserve(ask, second) else None
        except StoreUnavailableError:
            if ask.started:
                return None
            raise

    def _choose(self, ask: Ask) -> Choice | None:
        return choose(ask.need, self._workers.states(ask.pool.pool), ask.excluded())

    async def _reserve(self, ask: Ask, choice: Choice) -> bool:
        reservation = Reservation(
            pool=ask.pool.pool,
            session_id=ask.held.session_id,
            ref=ask.held.ref,
            worker_id=choice.worker.worker_id,
            tokens=choice.tokens,
            priority=ask.priority,
            deadline_ms=max(1, int((ask.deadline - time.monotonic()) * 1000)),
            lease_ms=LEASE_MS,
        )
        done = await self._store.reserve(reservation)
        ask.held.waiting = not done
        if done:
            ask.held.worker_id = choice.worker.worker_id
            self._workers.note_reserved(ask.pool.pool, choice.worker.worker_id, choice.tokens)
        return done

    def _check_revision(self, ask: Ask) -> None:
        """A revision that the pool has turned away from does not come back: waiting would be in vain."""
        active, bound = ask.pool.active_revision, ask.need.model_revision
        states = self._workers.states(ask.pool.pool)
        if active and bound not in ("", active) and states and not serves_revision(ask.need, states):
            raise _wrong_revision(bound)

    def _ticket(self, ask: Ask) -> Ticket:
        return Ticket(ask.tenant, ask.priority, ask.continuation, time.monotonic(), ask.deadline)

    async def _wait(self, ask: Ask, ticket: Ticket, on_queued: Callable[[int], None]) -> WorkerState:
        queue, pool = self._queues[ask.pool.pool], ask.pool.pool
        try:
            queue.push(ticket, len(queue) + 1 if ask.started else ask.pool.queue_limit)
        except QueueFullError as full:
            raise _full(full) from None
        waiter = self._waiters[ticket] = _Waiter(ask, ticket, asyncio.get_running_loop().create_future())
        on_queued(queue.ahead(ticket, time.monotonic()))
        self._listen(pool)
        self.kick(pool)
        try:
            async with asyncio.timeout(self._patience(ask)):
                return await waiter.found
        except TimeoutError:
            raise self._timeout(ask, queue) from None
        finally:
            queue.remove(ticket)
            del self._waiters[ticket]
            ask.held.waiting = False
            self.kick(pool)

    def _patience(self, ask: Ask) -> float:
        left = max(0.0, ask.deadline - time.monotonic())
        return left if ask.started else min(left, ask.pool.queue_timeout_seconds)

    def _timeout(self, ask: Ask, queue: AdmissionQueue) -> GatewayError:
        states = self._workers.states(ask.pool.pool)
        if states and not serves_revision(ask.need, states):
            return _wrong_revision(ask.need.model_revision)
        if self._choose(ask) is None:
            return unavailable(Reason.NO_WORKER, f"no worker of pool {ask.pool.pool} takes steps now", 2.0)
        return GatewayError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {ask.pool.pool} had room in time",
            retry_seconds=queue.retry_seconds(),
        )

    async def _pump(self, pool: str) -> None:
        try:
            while True:
                self._again.discard(pool)
                while await self._admit_one(pool):
                    pass
                if pool not in self._again:
                    return
        except StoreUnavailableError:
            return  # the next reading of the workers tries again
        except Exception:
            log.exception("admitting to %s failed; trying again", pool)
        finally:
            del self._pumps[pool]

    async def _admit_one(self, pool: str) -> bool:
        """Serves one that may be served now. The first in this gateway's order asks first; the store's order, which
        is that of all gateways, may put another one of ours before it, so where there is room the rest ask too: else
        each gateway could wait for a step that another, or itself, never asks for."""
        first = True
        for ticket in self._queues[pool].order(time.monotonic()):
            waiter = self._waiters.get(ticket)
            if waiter is None or waiter.found.done():
                continue
            choice = self._choose(waiter.ask)
            if choice is None or not (first or choice.has_room):
                continue
            first = False
            if await self._admit(waiter, choice):
                return True
        return False

    async def _admit(self, waiter: _Waiter, choice: Choice) -> bool:
        try:
            if not await self._reserve(waiter.ask, choice):
                return False
        except RefusedError as error:
            if not waiter.found.done():
                waiter.found.set_exception(error)
            return True
        self._queues[waiter.ask.pool.pool].admit(waiter.ticket, time.monotonic())
        if not waiter.found.done():
            waiter.found.set_result(choice.worker)
        return True  # one that left meanwhile gives its reservation back with its attempt

    def _listen(self, pool: str) -> None:
        if pool not in self._listeners:
            self._listeners[pool] = asyncio.create_task(self._hear(pool), name=f"wakes of {pool}")

    async def _hear(self, pool: str) -> None:
        while True:
            try:
                async for _ in self._store.wakes(pool):
                    self.kick(pool)
            except StoreUnavailableError:
                pass
            except Exception:
                log.exception("listening to the releases of %s failed; trying again", pool)
            await asyncio.sleep(1.0)


def _full(full: QueueFullError) -> GatewayError:
    return GatewayError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.QUEUE_FULL,
        f"{full}; come back later, or raise admission.queueLimit",
        retry_seconds=full.retry_seconds,
    )


def _wrong_revision(bound: str) -> GatewayError:
    return GatewayError(
        grpc.StatusCode.FAILED_PRECONDITION,
        Reason.MODEL_REVISION_MISMATCH,
        f"the session was begun on revision {bound}, which no worker serves any more; open another session",
    )
