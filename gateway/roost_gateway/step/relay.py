"""A step's output from worker to client, over as many workers as it takes.

The output is kept here from the first token to the commit. When a stream breaks and its worker lives, the output is
resumed there; when the worker is lost, another one replays the ids and goes on; when a gateway was lost, this one
resumes the orphan at its worker. Only when nobody holds the ids does the step begin again, and a client that has some
of them hears of it (`Restarted`).
"""

import contextlib
import logging
from array import array
from dataclasses import dataclass, replace
from functools import partial

from roost.contract.heads import AttemptRef
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.why import Place
from roost.fault_points import fault_point
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.refusals import refused
from roost.store.rules import QUARANTINE_MS
from roost.store.values import content_digest
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.attempt import Failure, StepAttempt, WorkerFailureError
from roost_gateway.step.deaths import Deaths
from roost_gateway.step.explanation import explain
from roost_gateway.step.output import KvReport
from roost_gateway.step.placement import Placement
from roost_gateway.step.worker_stream import WorkerStream
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where a step goes next: to a worker, to begin there or to resume output that the worker has."""

    worker: WorkerState
    resume: AttemptRef | None = None
    """Attempt under which the worker has the output."""
    orphan: AttemptRef | None = None
    """Earlier attempt that began the output."""
    again: bool = False
    """A stream to this worker has broken before."""
    was_sent: bool = False
    """The worker may have read the step from that stream."""


class Relay:
    """Generates one attempt's output."""

    def __init__(
        self, attempt: StepAttempt, store: SessionStore, fleet: Fleet, placement: Placement, telemetry: Telemetry
    ) -> None:
        self._attempt = attempt
        self._store = store
        self._workers = fleet.workers
        self._clients = fleet.clients
        self._placement = placement
        self._telemetry = telemetry
        self._orphans: list[Dispatch] = []
        """Where a worker may hold output of an earlier attempt."""
        self._accepted_here = False
        self._deaths = Deaths(attempt, store, fleet.workers)
        self.stream: WorkerStream | None = None
        """The stream that was opened last."""

    async def generate(self) -> WorkerStream:
        """Relays the output until it is complete. Returns the stream on which it ended.

        Raises Refused, StoreAwayError.
        """
        try:
            return await self._generate()
        finally:
            self._deaths.stop()

    async def _generate(self) -> WorkerStream:
        await self._find_orphans()
        dispatch = await self._next_orphan() or await self._fresh(self._attempt.began.reserved)
        while True:
            try:
                return await self._send(dispatch)
            except WorkerFailureError as failure:
                log.info(
                    "step %s at worker %s: %s", self._attempt.call.request.step_id, dispatch.worker.worker_id, failure
                )
                dispatch = await self._after(dispatch, failure)

    async def _find_orphans(self) -> None:
        """Collects the attempts before this one whose output a worker may hold."""
        fenced = self._attempt.began.fenced
        worker = await self._find(fenced.worker_id) if fenced is not None and fenced.worker_id else None
        if fenced is not None and worker is not None:
            refs = dict.fromkeys((fenced.ref, self._attempt.output.client_attempt or fenced.ref))
            self._orphans = [Dispatch(worker, ref, ref) for ref in refs]

    async def _next_orphan(self) -> Dispatch | None:
        """The next orphan to resume, or None. Resuming needs no room, so a place among the store's waiters, where it
        would hold up others, is given up."""
        if not self._orphans:
            return None
        if self._attempt.registered:
            with contextlib.suppress(StoreAwayError):  # at worst it keeps the place until it ends
                await self._store.release(self._attempt.reservation())
                self._attempt.withdrawn()
        return self._orphans.pop(0)

    async def _fresh(self, reserved: str = "") -> Dispatch:
        """A worker to begin at, or to replay the output that is here."""
        attempt = self._attempt
        if attempt.output.start_afresh():
            attempt.outbox.restarted(attempt.output, "the output of the earlier attempt is lost")
        self._orphans.clear()
        worker = await self._find(reserved) if reserved else None
        if worker is None or self._workers.get(attempt.pool.pool, reserved) is None:  # gone, or marked broken
            worker = await self._placement.place(attempt)
        fault_point("gateway.reserve.done")
        return Dispatch(worker)

    async def _find(self, worker_id: str) -> WorkerState | None:
        return await self._workers.find(self._attempt.pool.pool, worker_id)

    async def _send(self, dispatch: Dispatch) -> WorkerStream:
        """Opens a stream to the worker and waits until the output is complete."""
        attempt = self._attempt
        attempt.goes_to(dispatch.worker, self._place(dispatch.worker))
        if attempt.place is Place.HOME_EMPTY and attempt.home_eviction is None:
            self._ask_home()
        self._accepted_here = self._accepted_here and dispatch.again
        self.stream = stream = WorkerStream(
            attempt, dispatch.resume, dispatch.worker, self._clients, self._store, partial(self._accept, dispatch)
        )
        await stream.finished()
        if attempt.output.behind_client:
            attempt.outbox.restarted(attempt.output, "the output ended before what the client has")
        attempt.outbox.more()
        return stream

    def _place(self, worker: WorkerState) -> Place:
        attempt, pool = self._attempt, self._attempt.pool.pool
        home = attempt.descriptor.owner
        if not home:
            return Place.NO_HOME
        if worker.worker_id == home:
            return Place.HOME
        if not self._workers.has_published(pool, home):
            return Place.HOME_GONE
        if self._workers.is_draining(pool, home):
            return Place.HOME_DRAINS
        if home in attempt.faulty() or self._workers.get(pool, home) is None:
            return Place.HOME_FAILED
        return Place.HOME_FULL if attempt.need.cached.get(home) else Place.HOME_EMPTY

    def _ask_home(self) -> None:
        """Asks the session's home what it has dropped. The answer comes while the log is computed again."""
        attempt, pool = self._attempt, self._attempt.pool.pool
        home = self._workers.get(pool, attempt.descriptor.owner)
        if home is not None:
            self._clients.recall_eviction(pool, home, attempt.descriptor.published_as, attempt.home_dropped)

    def _accept(self, dispatch: Dispatch, prompt_ids: "array[int]", cached_tokens: int, report: KvReport) -> None:
        """Takes the prompt as the worker rendered it. Raises Refused: STEP_TOO_LONG."""
        attempt = self._attempt
        self._accepted_here = True
        attempt.accepted()
        attempt.output.accept(prompt_ids)
        if dispatch.orphan is not None and not attempt.output.resumed(dispatch.orphan):
            attempt.outbox.restarted(attempt.output, "an attempt that the client has not seen went on")
        # The worker keeps to the model's context; a pool may allow less, and what a step takes is only known now.
        limit = attempt.pool.max_session_tokens
        if limit and attempt.descriptor.head.length + len(attempt.output.prompt_ids) >= limit:
            raise refused(Reason.STEP_TOO_LONG)
        fault_point("gateway.accepted")
        worker_id = dispatch.worker.worker_id
        if attempt.descriptor.kv_of:  # the worker expects nothing yet, since it does not know what the fork shares
            need = attempt.need
            cached_tokens = max(cached_tokens, need.cached.get(worker_id, 0) + need.warm.get(worker_id, 0))
        attempt.outbox.started(attempt.output, explain(attempt, worker_id, cached_tokens, report))

    # Failures

    async def _after(self, dispatch: Dispatch, error: WorkerFailureError) -> Dispatch:
        """Where to go after a failure. Raises Refused: STEP_KILLED_WORKERS; WORKER_FAILED when too many workers were at
        fault."""
        worker, failure = dispatch.worker, error.failure
        was_sent = dispatch.was_sent
        if self.stream is not None:
            self.stream.leave()
            was_sent = was_sent or self.stream.sent
        if failure is Failure.LOST and not error.engine_died:
            again = self._reconnected(dispatch) or self._begun_again(dispatch)
            if again is not None:
                return replace(again, was_sent=was_sent)
        elif failure is Failure.UNKNOWN_ATTEMPT and not self._attempt.output.accepted:
            return await self._next_orphan() or await self._fresh(self._attempt.began.reserved)
        broke_off = failure in (Failure.LOST, Failure.UNKNOWN_ATTEMPT)
        if failure is Failure.LOST:
            self._workers.mark_broken(worker)
            self._forget_channel()
        is_fault = failure is Failure.FAULTY or (broke_off and was_sent)
        if broke_off and self._accepted_here:
            is_fault = await self._deaths.note(worker, engine_died=error.engine_died)
            if await self._deaths.are_too_many():
                raise await self._quarantined()
        self._attempt.failed_at(worker.worker_id, failure, is_fault=is_fault)
        if self._attempt.output.accepted:
            self._attempt.fails_over()
            self._telemetry.failover(worker.worker_id)
        return await self._fresh()

    async def _quarantined(self) -> Refused:
        """Lets the session refuse this step for a time; returns that refusal."""
        attempt = self._attempt
        log.error(
            "step %s of session %s has killed its workers; it is refused for %d s",
            attempt.call.request.step_id,
            attempt.session_id,
            QUARANTINE_MS // 1000,
        )
        try:
            digest = content_digest(attempt.call.request)
            await self._store.quarantine(attempt.session_id, digest, QUARANTINE_MS)
        except (Refused, StoreAwayError) as error:
            log.warning("the step could not be put into quarantine: %s", error)
        return refused(Reason.STEP_KILLED_WORKERS, retry_ms=QUARANTINE_MS)

    def _reconnected(self, dispatch: Dispatch) -> Dispatch | None:
        """Where to resume once after a broken stream; None when the worker is gone or was asked before. It may be
        marked broken by now: the streams of a trunk break together, and a step that had nothing there gives it up."""
        attempt, worker = self._attempt, dispatch.worker
        resume = attempt.ref if attempt.output.accepted else dispatch.resume
        known = self._workers.listed(attempt.pool.pool, worker.worker_id)
        if resume is None or dispatch.again or known is None or known.start != worker.start:
            return None
        if not attempt.output.accepted:  # the worker may have read the Resume before its answer was lost
            self._orphans.insert(0, Dispatch(worker, attempt.ref, dispatch.orphan, again=True))
        self._forget_channel()
        return replace(dispatch, resume=resume, again=True)

    def _begun_again(self, dispatch: Dispatch) -> Dispatch | None:
        """Where to begin once more after a stream that broke before the worker had accepted the step: there, on a new
        channel, if it has its lease and no other worker may serve the step, which would wait for this one anyway. Else
        None. If the worker has read the first Start after all, the second one takes its place."""
        attempt, worker = self._attempt, dispatch.worker
        known = self._workers.listed(attempt.pool.pool, worker.worker_id)
        if attempt.output.accepted or dispatch.again or known is None or known.start != worker.start:
            return None
        others_avoided = attempt.excluded() | {worker.worker_id}
        if self._workers.choose(attempt.pool.pool, attempt.need, others_avoided) is not None:
            return None
        self._forget_channel()
        return Dispatch(worker, again=True)

    def _forget_channel(self) -> None:
        if self.stream is not None:
            self._clients.forget(self.stream.channel)
