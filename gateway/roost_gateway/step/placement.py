"""Finds a step its worker: choose and reserve at once, or wait in a line until something is released.

A line is the steps of one pool that need the same revision of its model, so that the same workers can serve them; it is
named by that revision, and the line without a name is of steps that any worker can serve. The store keeps such lines
among gateways, by class, first come first served; within a gateway a line's order is `AdmissionQueue`'s. The two agree
because only the first of a gateway's line is among the store's waiters: it is of the best class that waits here, and
nobody here waits for one whom the store would serve earlier.

What wakes a line is what it may use: room at a worker of its revision, a place given up before its first, or, twice a
second, the workers read again. Only its first step is then looked at.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import StoreUnavailableError, Wake
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import Choice, WorkerState, serves_revision
from roost_gateway.routing.revisions import turned_away, wrong_revision
from roost_gateway.step.lines import Ask, Line, PoolQueue, Waiter

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
"""How long a step that waits in the store trusts that it does, before it asks for room where there seems to be none."""


class Placement:
    """The queues of all pools of one gateway."""

    def __init__(self, store: SessionStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._pools: dict[str, PoolQueue] = {}

    def queue(self, pool: str) -> AdmissionQueue:
        return self._pool(pool).queue

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return [
            (count, {"pool": pool.pool, "class": name})
            for pool in self._pools.values()
            for name, count in pool.queue.waiting_by_class()
        ]

    async def aclose(self) -> None:
        tasks = [pool.listener for pool in self._pools.values()]
        tasks += [line.pump for pool in self._pools.values() for line in pool.lines.values()]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def place(self, ask: Ask, on_queued: Callable[[int], None]) -> WorkerState:
        """A worker on which the step's tokens are reserved. `on_queued` is told the steps before it when it waits.

        Raises Refused: QUEUE_FULL, QUEUE_TIMEOUT, NO_WORKER, MODEL_REVISION_MISMATCH, ATTEMPT_FENCED;
        StoreUnavailableError.
        """
        pool = self._pool(ask.pool.pool)
        line = pool.line(ask.need.model_revision)
        async with line.lock:
            if not line.waiters:
                worker = await self._place_now(ask)
                if worker is not None:
                    return worker
            turned = self._turned_away(ask)
            if turned is not None:
                raise turned
            waiter = pool.enter(ask, line)
        on_queued(pool.queue.ahead(waiter.ticket, time.monotonic()))
        return await self._wait(pool, line, waiter)

    def kick(self, name: str, revision: str | None = None) -> None:
        """Something was released or learned of workers of a revision, or of any: the lines they can serve try again."""
        pool = self._pool(name)
        if not len(pool.queue):
            return
        for line in pool.lines.values():
            if revision in (None, "", line.name) or line.name == "":
                self._kick_line(pool, line)

    def _kick_line(self, pool: PoolQueue, line: Line) -> None:
        if not line.waiters:
            return
        if line.pump is not None:
            line.again = True
            return
        line.pump = asyncio.create_task(self._pump(pool, line), name=f"admit to {pool.pool} {line.name}")

    def _pool(self, name: str) -> PoolQueue:
        return self._pools.setdefault(name, PoolQueue(name))

    async def _place_now(self, ask: Ask) -> WorkerState | None:
        try:
            return await self._try(ask)
        except StoreUnavailableError:
            if ask.started:
                return None  # what has begun waits for the store
            raise

    async def _try(self, ask: Ask) -> WorkerState | None:
        """Reserves at the best worker; if that has no room, at the best by what the worker is then known to hold."""
        choice = self._choose(ask)
        if choice is None:
            await self._workers.refresh(ask.pool.pool)
            choice = self._choose(ask)
        if choice is None or self._need_not_ask(ask, choice):
            return None
        if await self._reserve(ask, choice):
            return choice.worker
        await self._look(ask, choice.worker.worker_id)
        second = self._choose(ask)
        if second is None or second.worker.worker_id == choice.worker.worker_id:
            return None
        return second.worker if await self._reserve(ask, second) else None

    def _need_not_ask(self, ask: Ask, choice: Choice) -> bool:
        """Whether the answer is known: the step has its place among the store's waiters, and nobody has room for it."""
        return ask.registered and not choice.may_be_granted and time.monotonic() < ask.asked_at + ASK_AGAIN_SECONDS

    def _choose(self, ask: Ask) -> Choice | None:
        return self._workers.choose(ask.pool.pool, ask.need, ask.excluded())

    async def _reserve(self, ask: Ask, choice: Choice) -> bool:
        done = await self._store.reserve(ask.reservation(choice.worker.worker_id, choice.tokens))
        ask.registered, ask.asked_at = not done, time.monotonic()
        if done:
            self._workers.note_reserved(ask.pool.pool, choice.worker.worker_id, choice.tokens)
        return done

    async def _look(self, ask: Ask, worker_id: str) -> None:
        """Reads the worker again, and what it has of the session: it may have dropped it while the step waited."""
        cached = await self._workers.look(ask.pool.pool, worker_id, ask.need.session_id)
        if worker_id in ask.need.cached:
            ask.need = replace(ask.need, cached={**ask.need.cached, worker_id: min(cached, ask.need.log_tokens)})

    async def _wait(self, pool: PoolQueue, line: Line, waiter: Waiter) -> WorkerState:
        if pool.listener is None:
            pool.listener = asyncio.create_task(self._hear(pool.pool), name=f"wakes of {pool.pool}")
        self._kick_line(pool, line)
        try:
            async with asyncio.timeout(self._patience(waiter.ask)):
                return await waiter.found
        except TimeoutError:
            raise self._timeout(waiter.ask, pool.queue) from None
        finally:
            pool.leave(line, waiter)
            if waiter is line.first:
                self._kick_line(pool, line)

    def _patience(self, ask: Ask) -> float:
        """In seconds. Workers that a restarted store has not heard of yet get the time of a lease to say so."""
        left = max(0.0, ask.deadline - time.monotonic())
        if ask.started:
            return left
        unheard = 0.0 if self._workers.has_published(ask.pool.pool) else self._workers.grace_seconds
        return min(left, max(unheard, ask.pool.queue_timeout_seconds))

    def _turned_away(self, ask: Ask) -> Refused | None:
        """By the pool as it is now: it may have changed since the step came."""
        if self._workers.grace:
            return None  # who has the revision may not have said so yet
        pool = self._workers.view(ask.pool.pool) or ask.pool
        if ask.need.model_revision in ("", pool.active_revision):
            return None  # the usual case, asked of all who wait whenever something is released
        return turned_away(pool, ask.need.model_revision, self._workers.states(pool.pool))

    def _timeout(self, ask: Ask, queue: AdmissionQueue) -> Refused:
        turned, states = self._turned_away(ask), self._workers.states(ask.pool.pool)
        if turned is not None:
            return turned
        if states and not ask.pool.migrates and not serves_revision(ask.need, states):
            return wrong_revision(ask.need.model_revision)
        if self._choose(ask) is None:
            return Refused(Reason.NO_WORKER, f"no worker of pool {ask.pool.pool} takes steps now", retry_seconds=2.0)
        return Refused(
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {ask.pool.pool} had room in time",
            retry_seconds=queue.retry_seconds(),
        )

    async def _pump(self, pool: PoolQueue, line: Line) -> None:
        try:
            line.again = True
            while line.again:
                line.again = False
                async with line.lock:
                    self._turn_away(pool, line)
                    pool.queue.bring_back(line.name)
                    while await self._admit_first(pool, line):
                        pass
        except StoreUnavailableError:
            pass  # the next reading of the workers tries again
        except Exception:
            log.exception("admitting to %s failed; trying again", pool.pool)
        finally:
            line.pump = None

    def _turn_away(self, pool: PoolQueue, line: Line) -> None:
        """Ends the waiting of a line whose revision will not be served again."""
        waiter = next(iter(line.waiters.values()), None)
        turned = None if waiter is None else self._turned_away(waiter.ask)
        if turned is None:
            return
        for waiter in list(line.waiters.values()):
            pool.leave(line, waiter)
            if not waiter.found.done():
                waiter.found.set_exception(turned)

    async def _admit_first(self, pool: PoolQueue, line: Line) -> bool:
        """Serves the first that some worker may serve; nobody overtakes one that waits for room."""
        waiter = self._first(pool, line)
        await self._withdraw_others(line, waiter)
        if waiter is None:
            return False
        try:
            worker = await self._try(waiter.ask)
        except Refused as error:
            pool.leave(line, waiter)
            if not waiter.found.done():
                waiter.found.set_exception(error)
            return True
        if worker is None:
            return False
        pool.queue.admit(waiter.ticket, time.monotonic())
        pool.leave(line, waiter)
        if not waiter.found.done():  # one that was cancelled gives its reservation back with its attempt
            waiter.found.set_result(worker)
        return True

    async def _withdraw_others(self, line: Line, first: Waiter | None) -> None:
        """Leaves the store's waiters to the first of this line: nobody may wait there who does not ask for room."""
        if line.first is not None:
            line.entered.append(line.first)
            line.first = None
        while line.entered:
            waiter = line.entered[-1]
            if waiter is not first and waiter.ask.registered and waiter.ticket in line.waiters:
                await self._store.release(waiter.ask.reservation())
                waiter.ask.registered = False
            line.entered.pop()  # not before: what the store did not hear is tried again
        line.first = first

    def _first(self, pool: PoolQueue, line: Line) -> Waiter | None:
        """Those whom no worker may serve now, as they avoid all that could, let others go first."""
        while True:
            ticket = pool.queue.first(line.name, time.monotonic())
            if ticket is None:
                return None
            waiter = line.waiters[ticket]
            if self._choose(waiter.ask) is not None:
                return waiter
            if not waiter.ask.avoid:
                return None  # nor anybody else of this line
            pool.queue.set_aside(ticket)

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
