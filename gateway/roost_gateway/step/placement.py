"""Gives an attempt its worker: choose and reserve at once, or wait in a line until something is released.

A line is the attempts of one pool that need the same revision of its model, so that the same workers can serve them; it
is named by that revision, and the line without a name is of attempts that any worker can serve. The store keeps such
lines among gateways, by class, first come first served; within a gateway a line's order is `AdmissionQueue`'s. The two
agree because only the first of a gateway's line is among the store's waiters: it is of the best class that waits here,
so nobody in this gateway waits behind one that the store would serve later.

A line is woken by what it may use: room at a worker of its revision, a place given up before its first, or, twice a
second, the workers read again. Only its first attempt is then looked at.
"""

import asyncio
import logging
import time

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import StoreUnavailableError, Wake
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import Choice, WorkerState
from roost_gateway.routing.revisions import serves_revision, turned_away, wrong_revision
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.lines import Line, PoolQueue, Waiter

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
"""How long an attempt that waits in the store trusts that it does, before it asks for room where there seems to be
none."""


class Placement:
    """The queues of all pools of one gateway."""

    def __init__(self, store: SessionStore, fleet: Fleet) -> None:
        self._store = store
        self._pools = fleet.pools
        self._workers = fleet.workers
        self._queues: dict[str, PoolQueue] = {}

    def queue(self, pool: str) -> AdmissionQueue:
        return self._of(pool).queue

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return [
            (count, {"pool": of.pool, "class": name})
            for of in self._queues.values()
            for name, count in of.queue.waiting_by_class()
        ]

    async def aclose(self) -> None:
        tasks = [of.listener for of in self._queues.values()]
        tasks += [line.pump for of in self._queues.values() for line in of.lines.values()]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def place(self, attempt: StepAttempt) -> WorkerState:
        """A worker at which the attempt's tokens are reserved. Its client hears of it when it has to wait.

        Raises Refused: QUEUE_FULL, QUEUE_TIMEOUT, NO_WORKER, MODEL_REVISION_MISMATCH, ATTEMPT_FENCED;
        StoreUnavailableError.
        """
        of = self._of(attempt.pool.pool)
        line = of.line(attempt.need.model_revision)
        with attempt.clock.queueing():
            async with line.lock:
                worker = None if line.waiters else await self._place_now(attempt)
                if worker is not None:
                    return worker
                turned = self._turned_away(attempt)
                if turned is not None:
                    raise turned
                waiter = of.enter(attempt, line)
            attempt.outbox.queued(of.queue.ahead(waiter.ticket, time.monotonic()))
            return await self._wait(of, line, waiter)

    def kick(self, pool: str, revision: str | None = None) -> None:
        """Something was released at, or learned of, workers of a revision, or of any: lines that they serve try
        again."""
        of = self._of(pool)
        if not len(of.queue):
            return
        for line in of.lines.values():
            if revision in (None, "", line.name) or line.name == "":
                self._kick_line(of, line)

    def _kick_line(self, of: PoolQueue, line: Line) -> None:
        if not line.waiters:
            return
        if line.pump is not None:
            line.again = True
            return
        line.pump = asyncio.create_task(self._pump(of, line), name=f"admit to {of.pool} {line.name}")

    def _of(self, pool: str) -> PoolQueue:
        return self._queues.setdefault(pool, PoolQueue(pool))

    async def _place_now(self, attempt: StepAttempt) -> WorkerState | None:
        try:
            return await self._try(attempt)
        except StoreUnavailableError:
            if attempt.has_begun:
                return None  # its output would be lost: it waits for the store
            raise

    async def _try(self, attempt: StepAttempt) -> WorkerState | None:
        """Reserves at the best worker; if that has no room, at the best by what the worker is then known to hold."""
        choice = self._choose(attempt)
        if choice is None:
            await self._workers.refresh(attempt.pool.pool)
            choice = self._choose(attempt)
        if choice is None or self._is_known_to_wait(attempt, choice):
            return None
        if await self._reserve(attempt, choice):
            return choice.worker
        # It may have dropped what it had of the session while the attempt waited.
        worker_id = choice.worker.worker_id
        attempt.cached_at(worker_id, await self._workers.look(attempt.pool.pool, worker_id, attempt.session_id))
        second = self._choose(attempt)
        if second is None or second.worker.worker_id == worker_id:
            return None
        return second.worker if await self._reserve(attempt, second) else None

    def _is_known_to_wait(self, attempt: StepAttempt, choice: Choice) -> bool:
        """Whether the answer is known: it has its place among the store's waiters, and nobody has room for it."""
        return attempt.registered and not choice.may_be_granted and attempt.asked_within(ASK_AGAIN_SECONDS)

    def _choose(self, attempt: StepAttempt) -> Choice | None:
        return self._workers.choose(attempt.pool.pool, attempt.need, attempt.excluded())

    async def _reserve(self, attempt: StepAttempt, choice: Choice) -> bool:
        worker_id = choice.worker.worker_id
        granted = await self._store.reserve(attempt.reservation(worker_id, choice.tokens))
        attempt.asked(granted=granted)
        if granted:
            self._workers.note_reserved(attempt.pool.pool, worker_id, choice.tokens)
        return granted

    async def _wait(self, of: PoolQueue, line: Line, waiter: Waiter) -> WorkerState:
        if of.listener is None:
            of.listener = asyncio.create_task(self._hear(of.pool), name=f"wakes of {of.pool}")
        self._kick_line(of, line)
        try:
            async with asyncio.timeout(self._patience(waiter.attempt)):
                return await waiter.worker
        except TimeoutError:
            raise self._timeout(waiter.attempt, of.queue) from None
        finally:
            of.leave(line, waiter)
            if waiter is line.first:
                self._kick_line(of, line)

    def _patience(self, attempt: StepAttempt) -> float:
        """In seconds. Workers that a restarted store has not heard of yet get the time of a lease to publish
        themselves."""
        left = max(0.0, attempt.call.deadline - time.monotonic())
        if attempt.has_begun:
            return left
        unheard = 0.0 if self._workers.has_published(attempt.pool.pool) else self._workers.grace.left_seconds
        return min(left, max(unheard, attempt.pool.queue_timeout_seconds))

    def _turned_away(self, attempt: StepAttempt) -> Refused | None:
        """By the pool as it is now: it may have changed since the step came."""
        if self._workers.grace:
            return None  # a worker of the revision may not have published itself yet
        pool = self._pools.known(attempt.pool.pool) or attempt.pool
        if attempt.need.model_revision in ("", pool.active_revision):
            return None  # the usual case, asked of every line whenever something is released
        return turned_away(pool, attempt.need.model_revision, self._workers.states(pool.pool))

    def _timeout(self, attempt: StepAttempt, queue: AdmissionQueue) -> Refused:
        pool, revision = attempt.pool, attempt.need.model_revision
        turned, workers = self._turned_away(attempt), self._workers.states(pool.pool)
        if turned is not None:
            return turned
        if workers and not pool.migrates and not serves_revision(revision, workers):
            return wrong_revision(revision)
        if self._choose(attempt) is None:
            return Refused(Reason.NO_WORKER, f"no worker of pool {pool.pool} takes steps now", retry_seconds=2.0)
        return Refused(
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {pool.pool} had room in time",
            retry_seconds=queue.retry_seconds(),
        )

    async def _pump(self, of: PoolQueue, line: Line) -> None:
        try:
            line.again = True
            while line.again:
                line.again = False
                async with line.lock:
                    self._turn_away(of, line)
                    of.queue.bring_back(line.name)
                    while await self._admit_first(of, line):
                        pass
        except StoreUnavailableError:
            pass  # the next reading of the workers tries again
        except Exception:
            log.exception("admitting to %s failed; trying again", of.pool)
        finally:
            line.pump = None

    def _turn_away(self, of: PoolQueue, line: Line) -> None:
        """Ends the waiting of a line whose revision will not be served again."""
        some = next(iter(line.waiters.values()), None)
        turned = None if some is None else self._turned_away(some.attempt)
        if turned is None:
            return
        for waiter in list(line.waiters.values()):
            of.leave(line, waiter)
            waiter.refuse(turned)

    async def _admit_first(self, of: PoolQueue, line: Line) -> bool:
        """Serves the first that some worker may serve; nobody overtakes one that waits for room."""
        waiter = self._first(of, line)
        await self._withdraw_others(line, waiter)
        if waiter is None:
            return False
        try:
            worker = await self._try(waiter.attempt)
        except Refused as error:
            of.leave(line, waiter)
            waiter.refuse(error)
            return True
        if worker is None:
            return False
        of.queue.admit(waiter.ticket, time.monotonic())
        of.leave(line, waiter)
        waiter.admit(worker)
        return True

    async def _withdraw_others(self, line: Line, first: Waiter | None) -> None:
        """Leaves only the first of this line among the store's waiters: nobody may wait there who does not ask for
        room."""
        if line.first is not None:
            line.entered.append(line.first)
            line.first = None
        while line.entered:
            waiter = line.entered[-1]
            if waiter is not first and waiter.attempt.registered and waiter.ticket in line.waiters:
                await self._store.release(waiter.attempt.reservation())
                waiter.attempt.withdrawn()
            line.entered.pop()  # not before: while the store does not answer, the next pump tries again
        line.first = first

    def _first(self, of: PoolQueue, line: Line) -> Waiter | None:
        """Attempts that no worker may serve now, as they avoid all that could, let others go first."""
        while True:
            ticket = of.queue.first(line.name, time.monotonic())
            if ticket is None:
                return None
            waiter = line.waiters[ticket]
            if self._choose(waiter.attempt) is not None:
                return waiter
            if not waiter.attempt.avoids_any:
                return None  # nor may any other of this line be served
            of.queue.set_aside(ticket)

    async def _hear(self, pool: str) -> None:
        while True:
            try:
                async for wake in self._store.wakes(pool):
                    self._take_wake(pool, wake)
            except StoreUnavailableError:
                pass
            except Exception:
                log.exception("listening to the releases of %s failed; trying again", pool)
            await asyncio.sleep(1.0)

    def _take_wake(self, pool: str, wake: Wake) -> None:
        """Kicks the lines that may use what was released."""
        if wake.line is not None:
            self.kick(pool, wake.line)
            return
        worker = self._workers.note_released(pool, wake) if wake.worker_id else None
        self.kick(pool, worker.model_revision if worker is not None else None)
