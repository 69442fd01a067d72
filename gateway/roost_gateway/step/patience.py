"""How long an attempt waits in line for a worker, and how its wait ends when no worker takes it in time."""

import time

from roost.contract.why import WaitReason
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.lines import HeldError, Line, PlacementWaiter, PoolQueue, queued
from roost_gateway.step.prospects import Prospects


class Patience:
    """The limits of waiting: the call's deadline, the pool's queue timeout, and the time that the gate may hold a
    step."""

    def __init__(self, fleet: Fleet, prospects: Prospects) -> None:
        self._workers = fleet.workers
        self._prospects = prospects

    def left_seconds(self, line: Line, waiter: PlacementWaiter) -> float:
        """How much longer to wait: altogether at least as long as workers may take to publish themselves after the
        store came back. Notes whether the gate holds the waiter."""
        attempt, now = waiter.attempt, time.monotonic()
        left = attempt.call.deadline - now
        if attempt.has_begun:
            return left
        pool = attempt.pool.pool
        unheard = 0.0 if self._workers.has_published(pool) else self._workers.grace.left_seconds(pool)
        longest = max(unheard, attempt.pool.queue_timeout_seconds)
        waiter.was_held = waiter.was_held or (attempt.is_gated and line.is_held)
        if waiter.was_held:
            longest = attempt.pool.max_hold_seconds
        return min(left, longest - (now - waiter.entered_at))

    def end(self, waiting: PoolQueue, line: Line, waiter: PlacementWaiter) -> Exception:
        """The error that ends a wait without a worker: HeldError when the gate held the attempt, else a refusal."""
        attempt, now = waiter.attempt, time.monotonic()
        if waiter.was_held and now < attempt.call.deadline:
            return HeldError(queued(waiting, line, waiter, WaitReason.WORKING_SET), now - waiter.entered_at)
        return self._prospects.timeout(attempt, waiting.queue.retry_seconds())
