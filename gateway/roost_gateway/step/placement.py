"""Gives an attempt its worker: choose and reserve at once, or wait in a line until something is released.

A line holds the attempts of one pool that need the same revision of its model, so that the same workers can serve them.
It is named by that revision; the line without a name holds attempts that any worker can serve. The store keeps the same
lines across gateways, by class, first come first served; within a gateway `AdmissionQueue` orders a line. The two
orders agree because only the first attempt of a gateway's line is among the store's waiters: it is of the best class
that waits in this gateway, so no other attempt here would be served earlier by the store.

A line is woken by what its attempts may use: room at a worker of its revision, a place given up before its first
attempt, or, twice a second, a new reading of the workers. Only its first attempt is then looked at.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from roost.contract.events import Queued
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.why import Wait, WaitReason
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError, Wake
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import Choice, WorkerState
from roost_gateway.routing.revisions import serves_revision, turned_away, wrong_revision
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.lines import Line, PlacementWaiter, PoolQueue

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
"""An attempt that waits in the store asks again at least this often, even where there seems to be no room."""


class Placement:
    """Places the attempts of one gateway, and holds those that wait."""

    def __init__(self, store: SessionStore, fleet: Fleet) -> None:
        self._store = store
        self._pools = fleet.pools
        self._workers = fleet.workers
        self._queues: dict[str, PoolQueue] = {}

    @contextmanager
    def counting(self, attempt: StepAttempt) -> Iterator[None]:
        """Counts a running attempt against its tenant's share during the block, whether it waited or not."""
        queue, tenant = self._pool_queue(attempt.pool.pool).queue, attempt.call.tenant
        queue.started(tenant)
        try:
            yield
        finally:
            queue.ended(tenant)

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, as a gauge reads them."""
        return [
            (count, {"pool": waiting.pool, "class": name})
            for waiting in self._queues.values()
            for name, count in waiting.queue.waiting_by_class()
        ]

    async def aclose(self) -> None:
        tasks = [waiting.listener for waiting in self._queues.values()]
        tasks += [line.pump for waiting in self._queues.values() for line in waiting.lines.values()]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def place(self, attempt: StepAttempt) -> WorkerState:
        """Reserves the attempt's tokens at a worker and returns the worker. The client gets `Queued` when it has to
        wait.

        An attempt is refused at once when its revision will not be served again, or when it has failed on every living
        worker that could serve it. Where all workers drain, or none lives, it waits.

        Raises Refused: QUEUE_FULL, QUEUE_TIMEOUT, NO_WORKER, WORKER_FAILED, MODEL_REVISION_MISMATCH, ATTEMPT_FENCED;
        StoreAwayError.
        """
        waiting = self._pool_queue(attempt.pool.pool)
        line = waiting.line(attempt.need.model_revision)
        with attempt.clock.queueing():
            async with line.lock:
                worker = None if line.waiters else await self._place_now(attempt)
                if worker is not None:
                    return worker
                refusal = self._turned_away(attempt) or self._failed_everywhere(attempt)
                if refusal is not None:
                    raise refusal
                reason = self._wait_reason(attempt, line)
                waiter = waiting.enter(attempt, line)
            ahead = waiting.queue.ahead(waiter.ticket, time.monotonic())
            attempt.waits(Wait(continuations=ahead.continuations, new_sessions=ahead.new_sessions, reason=reason))
            attempt.outbox.put(Queued(sum(ahead)))
            return await self._wait(waiting, line, waiter)

    def _wait_reason(self, attempt: StepAttempt, line: Line) -> WaitReason:
        if line.waiters:
            return WaitReason.LINE
        if self._choose(attempt) is not None:
            return WaitReason.NO_ROOM
        workers = self._workers.states(attempt.pool.pool)
        is_served = not workers or serves_revision(attempt.need.model_revision, workers)
        return WaitReason.NO_WORKER if is_served else WaitReason.NO_REVISION

    def kick(self, pool: str, revision: str | None = None) -> None:
        """Lets the lines try again that workers of `revision`, or of any revision, can serve."""
        waiting = self._pool_queue(pool)
        if not len(waiting.queue):
            return
        for line in waiting.lines.values():
            if revision in (None, "", line.name) or line.name == "":
                self._kick_line(waiting, line)

    def _kick_line(self, waiting: PoolQueue, line: Line) -> None:
        if not line.waiters:
            return
        if line.pump is not None:
            line.again = True
            return
        line.pump = asyncio.create_task(self._pump(waiting, line), name=f"admit to {waiting.pool} {line.name}")

    def _pool_queue(self, pool: str) -> PoolQueue:
        return self._queues.setdefault(pool, PoolQueue(pool))

    async def _place_now(self, attempt: StepAttempt) -> WorkerState | None:
        try:
            return await self._try(attempt)
        except StoreAwayError:
            if attempt.has_begun:
                return None  # refusing it would lose its output, so it waits for the store
            raise

    async def _try(self, attempt: StepAttempt) -> WorkerState | None:
        """Reserves at the best worker; if it has no room, reads it again and tries the worker that is then the best."""
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
        attempt.cached_at(await self._workers.look(attempt.pool.pool, worker_id, attempt.session_id))
        second = self._choose(attempt)
        if second is None or second.worker.worker_id == worker_id:
            return None
        return second.worker if await self._reserve(attempt, second) else None

    def _is_known_to_wait(self, attempt: StepAttempt, choice: Choice) -> bool:
        """Whether asking the store again is pointless: the attempt waits there already, and no worker has room."""
        return attempt.registered and not choice.may_be_granted and attempt.asked_within(ASK_AGAIN_SECONDS)

    def _choose(self, attempt: StepAttempt) -> Choice | None:
        return self._workers.choose(attempt.pool.pool, attempt.need, attempt.excluded())

    async def _reserve(self, attempt: StepAttempt, choice: Choice) -> bool:
        worker_id = choice.worker.worker_id
        granted = await self._store.reserve(attempt.reservation(worker_id, choice.tokens))
        attempt.asked(granted=granted)
        if granted:
            missing = attempt.need.missing_at(worker_id)
            self._workers.note_reserved(attempt.pool.pool, worker_id, choice.tokens, missing)
        return granted

    async def _wait(self, waiting: PoolQueue, line: Line, waiter: PlacementWaiter) -> WorkerState:
        if waiting.listener is None:
            waiting.listener = asyncio.create_task(self._hear(waiting.pool), name=f"wakes of {waiting.pool}")
        self._kick_line(waiting, line)
        try:
            async with asyncio.timeout(self._patience(waiter.attempt)):
                return await waiter.worker
        except TimeoutError:
            raise self._timeout(waiter.attempt, waiting.queue.retry_seconds()) from None
        finally:
            waiting.leave(line, waiter)
            if waiter is line.first:
                self._kick_line(waiting, line)

    def _patience(self, attempt: StepAttempt) -> float:
        """How long to wait, in seconds: at least as long as workers may take to publish themselves after the store came
        back."""
        left = max(0.0, attempt.call.deadline - time.monotonic())
        if attempt.has_begun:
            return left
        unheard = 0.0 if self._workers.has_published(attempt.pool.pool) else self._workers.grace.left_seconds
        return min(left, max(unheard, attempt.pool.queue_timeout_seconds))

    def _turned_away(self, attempt: StepAttempt) -> Refused | None:
        """The refusal of an attempt that no worker will ever serve, or None. Uses the current pool document, which may
        be newer than the call's."""
        if self._workers.grace:
            return None  # a worker of the revision may not have published itself yet
        pool = self._pools.known(attempt.pool.pool) or attempt.pool
        if attempt.need.model_revision in ("", pool.active_revision):
            return None  # the usual case, asked of every line whenever something is released
        return turned_away(pool, attempt.need.model_revision, self._workers.states(pool.pool))

    def _failed_everywhere(self, attempt: StepAttempt) -> Refused | None:
        """The refusal of an attempt that has failed on every living worker that could serve it, or None: where none
        lives, one may come, and one that is only marked broken, as after another step's stream broke, may do better."""
        if self._workers.grace or not (faulty := attempt.faulty()):
            return None
        pool, need = attempt.pool.pool, attempt.need
        if self._workers.any_living(pool, need, faulty) or not self._workers.choose(pool, need, frozenset()):
            return None
        return attempt.given_up()

    def _timeout(self, attempt: StepAttempt, retry_seconds: float) -> Refused:
        pool, revision = attempt.pool, attempt.need.model_revision
        refusal, workers = self._turned_away(attempt), self._workers.states(pool.pool)
        if refusal is not None:
            return refusal
        if workers and not pool.migrates and not serves_revision(revision, workers):
            return wrong_revision(revision)
        if self._choose(attempt) is None:
            return Refused(Reason.NO_WORKER, f"no worker of pool {pool.pool} takes steps now", retry_seconds=2.0)
        return Refused(
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {pool.pool} had room in time",
            retry_seconds=retry_seconds,
        )

    async def _pump(self, waiting: PoolQueue, line: Line) -> None:
        try:
            line.again = True
            while line.again:
                line.again = False
                async with line.lock:
                    self._turn_away(waiting, line)
                    waiting.queue.bring_back(line.name)
                    while await self._admit_first(waiting, line):
                        pass
        except StoreAwayError:
            pass  # the next reading of the workers tries again
        except Exception as error:
            log.exception("admitting to %s failed", waiting.pool)
            waiting.fail_all(line, error)
        finally:
            line.pump = None

    def _turn_away(self, waiting: PoolQueue, line: Line) -> None:
        """Refuses the attempts of a line whose revision will not be served again."""
        any_waiter = next(iter(line.waiters.values()), None)
        refusal = None if any_waiter is None else self._turned_away(any_waiter.attempt)
        if refusal is not None:
            waiting.fail_all(line, refusal)

    async def _admit_first(self, waiting: PoolQueue, line: Line) -> bool:
        """Serves the first attempt that some worker may serve; no other overtakes it while it waits for room. Returns
        whether there may be another to serve."""
        waiter = self._first(waiting, line)
        await self._withdraw_others(line, waiter)
        if waiter is None:
            return False
        try:
            worker = await self._try(waiter.attempt)
        except StoreAwayError:
            raise
        except Exception as error:  # of this attempt alone: the others of its line go on
            waiting.fail(line, waiter, error)
            return True
        if worker is None:
            return False
        waiting.queue.admit(waiter.ticket, time.monotonic())
        waiting.leave(line, waiter)
        waiter.admit(worker)
        return True

    async def _withdraw_others(self, line: Line, first: PlacementWaiter | None) -> None:
        """Withdraws all but the first attempt of the line from the store's waiters, since only the first asks for
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

    def _first(self, waiting: PoolQueue, line: Line) -> PlacementWaiter | None:
        """The first attempt of the line that some worker may serve, or None. Attempts that avoid every worker of their
        revision let others go first, and those that have failed on all of them are refused."""
        while True:
            ticket = waiting.queue.first(line.name, time.monotonic())
            if ticket is None:
                return None
            waiter = line.waiters[ticket]
            try:
                choice, refusal = self._choose(waiter.attempt), self._failed_everywhere(waiter.attempt)
            except Exception as error:
                waiting.fail(line, waiter, error)
                continue
            if choice is not None:
                return waiter
            if not waiter.attempt.avoids_any:
                return None  # nor may any other of this line be served
            if refusal is not None:
                waiting.fail(line, waiter, refusal)
            else:
                waiting.queue.set_aside(ticket)

    async def _hear(self, pool: str) -> None:
        while True:
            try:
                async for wake in self._store.wakes(pool):
                    self._take_wake(pool, wake)
            except StoreAwayError:
                pass
            except Exception:
                log.exception("listening to the releases of %s failed; trying again", pool)
            await asyncio.sleep(1.0)

    def _take_wake(self, pool: str, wake: Wake) -> None:
        """Lets the lines try again that may use what was released."""
        if wake.line is not None:
            self.kick(pool, wake.line)
            return
        worker = self._workers.note_released(pool, wake) if wake.worker_id else None
        self.kick(pool, worker.model_revision if worker is not None else None)
