"""Runs a scheduler's batches on a runner, a decode step ahead where the runner can.

The device computes step n + 1 while the tokens of step n are taken, sent and scheduled. Without that it waits for the
host between any two steps. Source: asynchronous scheduling in vLLM and SGLang. Unlike there, a step is begun ahead only
when all but its tokens is certain (`Scheduler.schedule_ahead`), and nothing is admitted, preempted, copied or given a
slot before its tokens are taken, so that a batch under way never has to be undone.
"""

from dataclasses import dataclass

from roost_worker.engine.plan import BatchResult, Runner, RunningBatch
from roost_worker.engine.scheduler import ScheduledBatch, Scheduler

FinishedBatch = tuple[ScheduledBatch, BatchResult]


@dataclass(frozen=True, slots=True)
class _Begun:
    batch: ScheduledBatch
    running: RunningBatch


class RunningBatches:
    """At most two batches at once: the one whose result is awaited, and the step after it."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._ahead: _Begun | None = None
        """The step after the batch that finished last."""

    def run_next(self, now: float) -> FinishedBatch | None:
        """Run the next batch, and begin the step after it if that is possible. Return None when nothing can run."""
        begun = self._ahead
        if begun is None:
            batch = self._scheduler.schedule(now)
            if batch is None:
                return None
            begun = self._begin(batch)
            if begun is None:
                return batch, self._runner.run(batch.plan)
        following = self._scheduler.schedule_ahead(begun.batch, now)
        self._ahead = self._begin(following) if following else None
        return begun.batch, begun.running.result()

    def _begin(self, batch: ScheduledBatch) -> _Begun | None:
        running = self._runner.begin(batch.plan)
        return _Begun(batch, running) if running else None
