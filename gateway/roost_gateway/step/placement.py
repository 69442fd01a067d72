"""Gives an attempt its worker: choose and reserve at once, or wait in a line until something is released.

A line holds the attempts of one pool that need the same revision of its model, so that the same workers can serve them.
It is named by that revision; the line without a name holds attempts that any worker can serve. The store keeps the same
lines across gateways, by class, then by the tenants' counters, then first come first served; within a gateway
`AdmissionQueue` orders a line. The two orders agree because only the first attempt of a gateway's line is among the
store's waiters: it is of the best class that waits in this gateway, so no other attempt here would be served earlier by
the store. What other gateways change of a counter comes with the store's answer, and another attempt may then be first.

A line is woken by what its attempts may use: room at a worker of its revision, a place given up before its first
attempt, or, twice a second, a new reading of the workers. Only its first attempt is then looked at.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from roost.contract.why import Wait, WaitReason
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.wake import Wake
from roost.store.working_set import HELD
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import Choice, WorkerState
from roost_gateway.routing.gate import is_open
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.call import StepCall
from roost_gateway.step.lines import HeldError, Line, LostLogError, PlacementWaiter, PoolQueue, queued
from roost_gateway.step.lost_logs import look_for_log
from roost_gateway.step.patience import Patience
from roost_gateway.step.prospects import Prospects

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 2.0
"""An attempt that waits in the store asks again at least this often, even where there seems to be no room."""
_AFTER_END_SECONDS = 0.02
"""After the end of a live session's time, by when the store counts it no more."""


class Placement:
    """Places the attempts of one gateway, and holds those that wait."""

    def __init__(self, store: SessionStore, fleet: Fleet) -> None:
        self._store = store
        self._workers = fleet.workers
        self._prospects = Prospects(fleet)
        self._patience = Patience(fleet, self._prospects)
        self._queues: dict[str, PoolQueue] = {}

    @contextmanager
    def counting(self, attempt: StepAttempt) -> Iterator[None]:
        """Keeps the counter of the attempt's tenant during the block, whether it waits or not."""
        queue, tenant = self._pool_queue(attempt.pool.pool).queue, attempt.call.tenant
        queue.step_came(tenant, attempt.began.counter)
        try:
            yield
        finally:
            queue.step_left(tenant)

    def learn_counter(self, attempt: StepAttempt, counter: int) -> None:
        """Takes the counter of an attempt's tenant as the store answered it."""
        self._pool_queue(attempt.pool.pool).queue.learn(attempt.call.tenant, counter)

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, as a gauge reads them."""
        return [length for waiting in self._queues.values() for length in waiting.lengths()]

    def any_waits(self, pool: str) -> bool:
        """Whether a step of the pool waits for room in this gateway."""
        return pool in self._queues and len(self._queues[pool].queue) > 0

    def held(self) -> list[tuple[str, int, int]]:
        """Pool, steps and tokens of what the gate holds in this gateway."""
        return [waiting.held() for waiting in self._queues.values()]

    async def aclose(self) -> None:
        tasks = [waiting.listener for waiting in self._queues.values()]
        lines = [line for waiting in self._queues.values() for line in waiting.lines.values()]
        tasks += [line.pump for line in lines]
        for line in lines:
            line.stop_timer()
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
        with attempt.clock.queueing():
            while True:
                try:
                    return await self._place_in(waiting, waiting.line(attempt.line), attempt)
                except LostLogError:
                    pass  # it goes on in the line of those that are held
                except HeldError as held:
                    if attempt.call.role.refuses_held:
                        raise held.refusal() from None
                    attempt.passes_gate()

    async def _place_in(self, waiting: PoolQueue, line: Line, attempt: StepAttempt) -> WorkerState:
        """Raises HeldError when the gate has held it for as long as it may; LostLogError; what `place` raises."""
        async with line.lock:
            worker = None if line.waiters else await self._place_now(attempt)
            if worker is not None:
                return worker
            refusal = self._prospects.turned_away(attempt) or self._prospects.failed_everywhere(attempt)
            if refusal is not None:
                raise refusal
            reason = self._wait_reason(attempt, line)
            waiter = waiting.enter(attempt, line)
        ahead = waiting.queue.ahead(waiter.ticket, time.monotonic())
        attempt.waits(Wait(continuations=ahead.continuations, new_sessions=ahead.new_sessions, reason=reason))
        attempt.outbox.put(queued(waiting, line, waiter, reason))
        return await self._wait(waiting, line, waiter)

    def _wait_reason(self, attempt: StepAttempt, line: Line) -> WaitReason:
        if line.is_held:
            return WaitReason.WORKING_SET
        return WaitReason.LINE if line.waiters else self._prospects.wait_reason(attempt)

    def first_worker(self, call: StepCall) -> str:
        """The worker at which Begin itself may reserve for the first step of a session; empty where the step is placed
        after Begin. The reservation counts from now on, so that the sessions of a burst choose different workers; where
        Begin does not make it, until the worker is read again."""
        pool, is_gated = call.pool.pool, call.pool.has_gate
        line = self._pool_queue(pool).line((HELD if is_gated else "") + call.pool.active_revision)
        worker_id = "" if line.waiters else self._prospects.first_worker(call)
        if worker_id:
            need = call.first_need
            self._workers.note_reserved(pool, worker_id, need.tokens, need.gate_tokens * is_gated, 0)
        return worker_id

    def kick(self, pool: str, revision: str | None = None) -> None:
        """Lets the lines try again that workers of `revision`, or of any revision, can serve."""
        waiting = self._pool_queue(pool)
        if not len(waiting.queue):
            return
        for line in waiting.lines.values():
            if revision in (None, "", line.revision) or line.revision == "":
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

    async def _try(self, attempt: StepAttempt, *, has_waited: bool = False) -> WorkerState | None:
        """Reserves at the best worker; if it has no room, reads it again and tries the worker that is then the best. An
        attempt that has waited may have to pass the gate after all."""
        choice = self._prospects.choose(attempt)
        if choice is None:
            await self._workers.refresh(attempt.pool.pool)
            choice = self._prospects.choose(attempt)
        if choice is None:
            self._pool_queue(attempt.pool.pool).line(attempt.line).answer = None  # the gate is not the reason any more
            return None
        if self._is_known_to_wait(attempt, choice):
            return None
        if has_waited and await look_for_log(attempt, self._workers):
            choice = self._prospects.choose(attempt) or choice
        if await self._reserve(attempt, choice):
            return choice.worker
        # It may have dropped what it had of the session while the attempt waited.
        worker_id = choice.worker.worker_id
        attempt.cached_at(await self._workers.look(attempt.pool.pool, worker_id, attempt.session_id))
        second = self._prospects.choose(attempt)
        if second is None or second.worker.worker_id == worker_id:
            return None
        return second.worker if await self._reserve(attempt, second) else None

    def _is_known_to_wait(self, attempt: StepAttempt, choice: Choice) -> bool:
        """Whether asking the store again is pointless: the attempt waits there already, and no worker has room."""
        closed = attempt.is_gated and not is_open(choice.worker, attempt.need.gate_tokens)
        may_be_granted = choice.may_be_granted and not closed
        return attempt.registered and not may_be_granted and attempt.asked_within(ASK_AGAIN_SECONDS)

    async def _reserve(self, attempt: StepAttempt, choice: Choice) -> bool:
        pool, worker_id = attempt.pool.pool, choice.worker.worker_id
        line, live_tokens = self._pool_queue(pool).line(attempt.line), attempt.need.gate_tokens * attempt.is_gated
        answer = await self._store.reserve(attempt.reservation(worker_id, choice.tokens))
        attempt.asked(granted=answer.granted)
        self.learn_counter(attempt, answer.counter)
        if answer.granted:
            missing = attempt.need.missing_at(worker_id)
            self._workers.note_reserved(pool, worker_id, choice.tokens, live_tokens, missing)
        else:
            line.answer = answer
        if answer.held and answer.first_end_ms is not None:
            line.set_timer(answer.first_end_ms / 1000 + _AFTER_END_SECONDS, lambda: self._live_ended(pool, attempt))
        return answer.granted

    def _live_ended(self, pool: str, attempt: StepAttempt) -> None:
        """Lets an attempt ask again that is held, since the time of a live session is over."""
        attempt.asks_again()
        self.kick(pool, attempt.need.model_revision)

    async def _wait(self, waiting: PoolQueue, line: Line, waiter: PlacementWaiter) -> WorkerState:
        if waiting.listener is None:
            waiting.listener = asyncio.create_task(self._hear(waiting.pool), name=f"wakes of {waiting.pool}")
        self._kick_line(waiting, line)
        try:
            while not waiter.worker.done() and (seconds := self._patience.left_seconds(line, waiter)) > 0:
                await asyncio.wait([waiter.worker], timeout=seconds)
            if waiter.attempt.is_gated:
                async with line.lock:  # a reservation for it may be under way
                    pass
            if not waiter.worker.done():
                raise self._patience.end(waiting, line, waiter)
            return waiter.worker.result()
        finally:
            waiter.worker.cancel()
            waiting.leave(line, waiter)
            if waiter is line.first:
                self._kick_line(waiting, line)

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
        refusal = None if any_waiter is None else self._prospects.turned_away(any_waiter.attempt)
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
            worker = await self._try(waiter.attempt, has_waited=True)
        except StoreAwayError:
            raise
        except Exception as error:  # of this attempt alone: the others of its line go on
            waiting.fail(line, waiter, error)
            return True
        if worker is None and waiter.attempt.line != line.name:
            waiting.fail(line, waiter, LostLogError())
            return True
        if worker is None:
            return self._first(waiting, line) is not waiter  # its tenant has had more than was known here
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
                choice = self._prospects.choose(waiter.attempt)
                refusal = self._prospects.failed_everywhere(waiter.attempt)
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
            self.kick(pool, wake.line.removeprefix(HELD))
            return
        worker = self._workers.note_released(pool, wake) if wake.worker_id else None
        self.kick(pool, worker.model_revision if worker is not None else None)
