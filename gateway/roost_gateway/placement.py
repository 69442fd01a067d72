"""Finds a step its worker: choose and reserve at once, or wait in the pool's queue until something is released.

The store's waiters keep classes apart among gateways, first come first served; within a gateway the order is
`AdmissionQueue`'s. The two agree because only the first of a gateway's queue is among the store's waiters: it is of
the best class that waits here, and nobody here waits for one whom the store would serve earlier.
"""

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
from roost_gateway.revisions import turned_away, wrong_revision
from roost_gateway.routing import Choice, StepNeed, WorkerState, serves_revision
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
    registered: bool = False
    """Whether it may be among the store's waiters: Begin puts it there when the owner has no room."""
    avoid: dict[str, float] = field(default_factory=dict)
    """Worker ids that this step avoids, and until when."""
    started: bool = False
    """A step that has begun waits until its deadline and is never refused for a full queue."""

    def excluded(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(worker for worker, until in self.avoid.items() if until > now)

    def reservation(self, worker_id: str = "", tokens: int = 0) -> Reservation:
        """What to reserve at a worker; without one, what to give up."""
        return Reservation(
            pool=self.pool.pool,
            session_id=self.held.session_id,
            ref=self.held.ref,
            worker_id=worker_id,
            tokens=tokens,
            priority=self.priority,
            deadline_ms=max(1, int((self.deadline - time.monotonic()) * 1000)),
            lease_ms=LEASE_MS,
            revision=self.need.model_revision,
        )


@dataclass(slots=True, eq=False)
class _Waiter:
    ask: Ask
    ticket: Ticket
    found: "asyncio.Future[WorkerState]"


class _Line:
    """The queue of one pool in this gateway. Whoever reserves holds the lock, so that steps reserve in their order."""

    def __init__(self) -> None:
        self.queue = AdmissionQueue()
        self.lock = asyncio.Lock()
        self.waiters: dict[Ticket, _Waiter] = {}
        self.pump: asyncio.Task[None] | None = None
        self.again = False
        self.listener: asyncio.Task[None] | None = None

    def enter(self, ask: Ask, ticket: Ticket) -> _Waiter:
        """Takes a place. Raises GatewayError: QUEUE_FULL."""
        try:
            self.queue.push(ticket, len(self.queue) + 1 if ask.started else ask.pool.queue_limit)
        except QueueFullError as full:
            raise _full(full) from None
        waiter = self.waiters[ticket] = _Waiter(ask, ticket, asyncio.get_running_loop().create_future())
        return waiter

    def leave(self, waiter: _Waiter) -> None:
        self.queue.remove(waiter.ticket)
        self.waiters.pop(waiter.ticket, None)


class Placement:
    """The queues of all pools of one gateway."""

    def __init__(self, store: SessionStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._lines: dict[str, _Line] = defaultdict(_Line)

    def queue(self, pool: str) -> AdmissionQueue:
        return self._lines[pool].queue

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return [
            (count, {"pool": pool, "class": name})
            for pool, line in self._lines.items()
            for name, count in line.queue.waiting_by_class()
        ]

    async def aclose(self) -> None:
        tasks = [task for line in self._lines.values() for task in (line.pump, line.listener) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def place(self, ask: Ask, on_queued: Callable[[int], None]) -> WorkerState:
        """A worker on which the step's tokens are reserved. `on_queued` is told the steps before it when it waits.

        Raises GatewayError: QUEUE_FULL, QUEUE_TIMEOUT, NO_WORKER, MODEL_REVISION_MISMATCH; RefusedError: FENCED;
        StoreUnavailableError.
        """
        line = self._lines[ask.pool.pool]
        async with line.lock:
            if not len(line.queue):
                worker = await self._place_now(ask)
                if worker is not None:
                    return worker
            turned = self._turned_away(ask)
            if turned is not None:
                raise turned
            waiter = line.enter(ask, Ticket(ask.tenant, ask.priority, ask.continuation, time.monotonic(), ask.deadline))
        on_queued(line.queue.ahead(waiter.ticket, time.monotonic()))
        return await self._wait(line, waiter)

    def kick(self, pool: str) -> None:
        """Something was released or learned: those who wait try again."""
        line = self._lines[pool]
        if not len(line.queue):
            return
        if line.pump is not None:
            line.again = True
            return
        line.pump = asyncio.create_task(self._pump(pool, line), name=f"admit to {pool}")

    async def _place_now(self, ask: Ask) -> WorkerState | None:
        try:
            return await self._try(ask)
        except StoreUnavailableError:
            if ask.started:
                return None  # what has begun waits for the store
            raise

    async def _try(self, ask: Ask) -> WorkerState | None:
        """Reserves at the best worker; at the best that is known a moment later, should that be another one."""
        choice = self._choose(ask)
        if choice is not None and await self._reserve(ask, choice):
            return choice.worker
        await self._workers.refresh(ask.pool.pool)
        second = self._choose(ask)
        if second is None or (choice is not None and second.worker.worker_id == choice.worker.worker_id):
            return None
        return second.worker if await self._reserve(ask, second) else None

    def _choose(self, ask: Ask) -> Choice | None:
        return self._workers.choose(ask.pool.pool, ask.need, ask.excluded())

    async def _reserve(self, ask: Ask, choice: Choice) -> bool:
        done = await self._store.reserve(ask.reservation(choice.worker.worker_id, choice.tokens))
        ask.registered = not done
        if done:
            self._workers.note_reserved(ask.pool.pool, choice.worker.worker_id, choice.tokens)
        return done

    async def _wait(self, line: _Line, waiter: _Waiter) -> WorkerState:
        pool = waiter.ask.pool.pool
        self._listen(pool, line)
        self.kick(pool)
        try:
            async with asyncio.timeout(self._patience(waiter.ask)):
                return await waiter.found
        except TimeoutError:
            raise self._timeout(waiter.ask, line.queue) from None
        finally:
            line.leave(waiter)
            self.kick(pool)

    def _patience(self, ask: Ask) -> float:
        """In seconds. Workers that a restarted store has not heard of yet get the time of a lease to say so."""
        left = max(0.0, ask.deadline - time.monotonic())
        if ask.started:
            return left
        unheard = 0.0 if self._workers.has_published(ask.pool.pool) else self._workers.grace_seconds
        return min(left, max(unheard, ask.pool.queue_timeout_seconds))

    def _turned_away(self, ask: Ask) -> GatewayError | None:
        """By the pool as it is now: it may have changed since the step came."""
        if self._workers.grace:
            return None  # who has the revision may not have said so yet
        pool = self._workers.view(ask.pool.pool) or ask.pool
        if ask.need.model_revision in ("", pool.active_revision):
            return None  # the usual case, asked of all who wait whenever something is released
        return turned_away(pool, ask.need.model_revision, self._workers.states(pool.pool))

    def _timeout(self, ask: Ask, queue: AdmissionQueue) -> GatewayError:
        turned, states = self._turned_away(ask), self._workers.states(ask.pool.pool)
        if turned is not None:
            return turned
        if states and not ask.pool.migrates and not serves_revision(ask.need, states):
            return wrong_revision(ask.need.model_revision)
        if self._choose(ask) is None:
            return unavailable(Reason.NO_WORKER, f"no worker of pool {ask.pool.pool} takes steps now", 2.0)
        return GatewayError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {ask.pool.pool} had room in time",
            retry_seconds=queue.retry_seconds(),
        )

    async def _pump(self, pool: str, line: _Line) -> None:
        try:
            line.again = True
            while line.again:
                line.again = False
                async with line.lock:
                    self._turn_away(line)
                    while await self._admit_first(line):
                        pass
        except StoreUnavailableError:
            pass  # the next reading of the workers tries again
        except Exception:
            log.exception("admitting to %s failed; trying again", pool)
        finally:
            line.pump = None

    def _turn_away(self, line: _Line) -> None:
        for waiter in list(line.waiters.values()):
            turned = self._turned_away(waiter.ask)
            if turned is not None:
                line.leave(waiter)
                if not waiter.found.done():
                    waiter.found.set_exception(turned)

    async def _admit_first(self, line: _Line) -> bool:
        """Serves the first that some worker may serve; nobody overtakes one that waits for room."""
        waiter = self._first(line)
        await self._withdraw([other.ask for other in line.waiters.values() if other is not waiter])
        if waiter is None:
            return False
        try:
            worker = await self._try(waiter.ask)
        except RefusedError as error:
            line.leave(waiter)
            if not waiter.found.done():
                waiter.found.set_exception(error)
            return True
        if worker is None:
            return False
        line.queue.admit(waiter.ticket, time.monotonic())
        line.leave(waiter)
        if not waiter.found.done():  # one that left meanwhile gives its reservation back with its attempt
            waiter.found.set_result(worker)
        return True

    async def _withdraw(self, asks: list[Ask]) -> None:
        """Leaves the store's waiters to the first of this gateway: nobody may wait there who does not ask for room."""
        for ask in asks:
            if ask.registered:
                await self._store.release(ask.reservation())
                ask.registered = False

    def _first(self, line: _Line) -> _Waiter | None:
        for ticket in line.queue.order(time.monotonic()):
            waiter = line.waiters[ticket]
            if self._choose(waiter.ask) is not None:
                return waiter
        return None

    def _listen(self, pool: str, line: _Line) -> None:
        if line.listener is None:
            line.listener = asyncio.create_task(self._hear(pool), name=f"wakes of {pool}")

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
