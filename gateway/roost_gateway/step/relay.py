"""A step's output from worker to client, over as many workers as it takes.

The output is kept here from the first token to the commit. When a stream breaks and its worker lives, the output is
resumed there; when the worker is lost, another one replays the ids and goes on; when a gateway was lost, this one
resumes the orphan at its worker. Only when nobody holds the ids does the step begin again, and a client that has some
of them is told so.
"""

import logging
import time
from array import array
from dataclasses import dataclass, replace
from typing import Any as Parts

from roost.contract.heads import AttemptRef
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.records import Began
from roost.store.refusals import refused
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import Accepted, Delta, Finished, GenerateRequest
from roost_gateway.convert import attempt_from_proto, attempt_to_proto
from roost_gateway.fleet.worker_client import WorkerChannel
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step import worker_requests
from roost_gateway.step.committing import StepClock
from roost_gateway.step.history import SessionHistory
from roost_gateway.step.lines import Ask
from roost_gateway.step.outbox import Outbox
from roost_gateway.step.output import OutputGapError, StepOutput
from roost_gateway.step.worker_stream import Failure, Generation, WorkerFailureError

log = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How long a step avoids a worker that had no room for it."""
MAX_FAULTS = 3
"""Workers that may fail on a step, or be lost while they work on it, before the step is taken to be at fault: one that
kills its worker must not kill them all."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a step goes next: to a worker, afresh or to resume output there."""

    worker: WorkerState
    resume: AttemptRef | None = None
    """Attempt under which the worker has the output."""
    orphan: AttemptRef | None = None
    """Earlier attempt that began the output."""
    again: bool = False
    """A stream to this worker has broken before."""


class Relay:
    """Generates one attempt's output."""

    def __init__(
        self,
        parts: Parts,
        request: pb.StepRequest,
        began: Began,
        ask: Ask,
        outbox: Outbox,
        clock: StepClock,
        max_output_tokens: int,
    ) -> None:
        self._parts = parts
        self._request = request
        self._began = began
        self._ask = ask
        self._outbox = outbox
        self._clock = clock
        self.lineage = [began.ref]
        """Attempts whose output this is, oldest first."""
        self.model_revision = ""
        self._orphans: list[Target] = []
        self._channel: WorkerChannel | None = None
        self._faults = 0
        self._accepted_here = False
        self._client_attempt: AttemptRef | None = None
        self.output = StepOutput(attempt_to_proto(began.ref))
        self.generation: Generation | None = None
        self.failovers = 0
        self._max_output_tokens = max_output_tokens
        if request.HasField("received") and (request.received.tokens or request.received.text_bytes):
            self._client_attempt = attempt_from_proto(request.received.attempt)
            self.output.client_has(request.received)

    async def generate(self) -> tuple[Finished, str]:
        """The worker's Finished and its name. Raises Refused, StoreUnavailableError."""
        target = await self._first_target()
        while True:
            try:
                return await self._stream(target), target.worker.worker_id
            except WorkerFailureError as failure:
                log.info("step %s at worker %s: %s", self._request.step_id, target.worker.worker_id, failure)
                target = await self._after(target, failure)

    async def _first_target(self) -> Target:
        await self._find_orphans()
        return self._orphans.pop(0) if self._orphans else await self._fresh(self._began.reserved)

    async def _find_orphans(self) -> None:
        """Attempts before this one whose output a worker may hold; that worker's reservation was taken over."""
        fenced = self._began.fenced
        worker = await self._worker(fenced.worker_id) if fenced is not None and fenced.worker_id else None
        if fenced is None or worker is None:
            return
        refs = dict.fromkeys((fenced.ref, self._client_attempt or fenced.ref))
        self._orphans = [Target(worker, ref, ref) for ref in refs]

    async def _fresh(self, reserved: str = "") -> Target:
        """A worker for a start, or for a replay of what there is."""
        if self.output.sent_anything and (self.output.behind_client or not self._continues()):
            self._outbox.restarted(self.output, "the output of the earlier attempt is lost")
        self._client_attempt = None
        self._orphans.clear()
        worker = await self._worker(reserved) if reserved else None
        if worker is None:
            with self._clock.queueing():
                worker = await self._parts.placement.place(self._ask, self._outbox.queued)
        fault_point("gateway.reserve.done")
        return Target(worker)

    def _continues(self) -> bool:
        """Whether what is here is what the client has the beginning of."""
        return self.output.accepted and self._client_attempt is None

    async def _worker(self, worker_id: str) -> WorkerState | None:
        return await self._parts.workers.find(self._ask.pool.pool, worker_id)

    async def _after(self, target: Target, failure: WorkerFailureError) -> Target:
        """Where to go after a failure."""
        if self.generation is not None:
            self.generation.leave()
        again = await self._there_again(target, failure)
        if again is not None:
            return again
        self._avoid(target.worker, failure)
        if self.output.accepted:
            self._ask.started = True
            self.failovers += 1
            self._parts.telemetry.failover(target.worker.worker_id)
        return await self._fresh()

    async def _there_again(self, target: Target, failure: WorkerFailureError) -> Target | None:
        """Another try at a worker that may have output: over a new connection, under another attempt, or afresh."""
        if failure.failure is Failure.LOST:
            return self._reconnected(target)
        if failure.failure is not Failure.UNKNOWN_ATTEMPT or self.output.accepted:
            return None
        return self._orphans.pop(0) if self._orphans else await self._fresh(self._began.reserved)

    def _reconnected(self, target: Target) -> Target | None:
        """A broken stream says little of its worker: once, it is asked for the rest of the output."""
        resume = self._began.ref if self.output.accepted else target.resume
        if resume is None or target.again or not self._lives(target.worker):
            return None
        if not self.output.accepted:  # the worker may have taken the Resume in, before its answer was lost
            self._orphans.insert(0, Target(target.worker, self._began.ref, target.orphan, again=True))
        self._forget_channel()
        return replace(target, resume=resume, again=True)

    def _lives(self, worker: WorkerState) -> bool:
        """Whether this start of a worker has a lease."""
        known = self._parts.workers.get(self._ask.pool.pool, worker.worker_id)
        return known is not None and known.boot == worker.boot

    def _avoid(self, worker: WorkerState, failure: WorkerFailureError) -> None:
        kind = failure.failure
        if kind is Failure.LOST:
            self._parts.workers.mark_broken(worker)
            self._forget_channel()
        elif kind is not Failure.UNKNOWN_ATTEMPT:  # one that answers so can well begin anew
            faulty = kind is Failure.FAULTY
            self._ask.avoid[worker.worker_id] = self._clock.deadline if faulty else time.monotonic() + BUSY_SECONDS
        if kind is Failure.FAULTY or (self._accepted_here and kind in (Failure.LOST, Failure.UNKNOWN_ATTEMPT)):
            self._faults += 1
        if self._faults >= MAX_FAULTS:
            raise poisonous(self._faults)

    def _forget_channel(self) -> None:
        if self._channel is not None:
            self._parts.clients.forget(self._channel)

    async def _stream(self, target: Target) -> Finished:
        self.model_revision = self._ask.need.model_revision or target.worker.model_revision
        self._accepted_here = self._accepted_here and target.again
        self._channel = self._parts.clients.channel(target.worker.address)
        metadata = self._parts.clients.metadata(self._ask.pool.pool)

        def take(event: Accepted | Delta) -> None:
            if isinstance(event, Delta):
                self._take(event)
            else:
                self._accept(event, target)

        self.generation = Generation(self._channel, metadata, self._first_message(target.resume), self._history(), take)
        finished = await self.generation.finished()
        self._finish(finished)
        return finished

    def _take(self, delta: Delta) -> None:
        try:
            self.output.append(delta)
        except OutputGapError as error:
            raise WorkerFailureError(Failure.FAULTY, str(error)) from error
        self._clock.output_came()
        self._outbox.more()

    def _accept(self, accepted: Accepted, target: Target) -> None:
        self._accepted_here = True
        self._ask.need = replace(self._ask.need, model_revision=self.model_revision)  # whoever goes on has the same
        self.output.accept(array("I", accepted.prompt_token_ids))
        if target.orphan is not None:
            self.lineage = [target.orphan, self._began.ref]
            if self._client_attempt not in (None, target.orphan):
                self._outbox.restarted(self.output, "an attempt that the client has not seen went on")
            self._client_attempt = None
        self._check_length()
        fault_point("gateway.accepted")
        self._outbox.started(self.output, target.worker.worker_id, accepted.cached_tokens)

    def _check_length(self) -> None:
        """The worker keeps to the model's context; a pool may allow less, and what a step takes is only known now."""
        limit = self._ask.pool.max_session_tokens
        if limit and self._began.descriptor.head.length + len(self.output.prompt_ids) >= limit:
            raise refused(Reason.STEP_TOO_LONG)

    def _finish(self, finished: Finished) -> None:
        """Checks that everything came; text that the worker held back to the end is still to be sent."""
        text, whole = bytes(self.output.text), finished.text.encode()
        if finished.output_tokens != len(self.output.ids) or not whole.startswith(text):
            raise WorkerFailureError(
                Failure.FAULTY,
                f"the worker finished {finished.output_tokens} tokens and {len(whole)} bytes, "
                f"but {len(self.output.ids)} and {len(text)} came, or others",
            )
        self.output.text += whole[len(text) :]
        if self.output.behind_client:
            self._outbox.restarted(self.output, "the output ended before what the client has")
        self._outbox.more()

    def _history(self) -> SessionHistory:
        descriptor = self._began.descriptor
        return SessionHistory(
            self._parts.store,
            descriptor.session_id,
            descriptor.generation,
            descriptor.head.length,
            descriptor.steps,
        )

    def _first_message(self, resume: AttemptRef | None) -> GenerateRequest:
        left = self._clock.milliseconds_left
        if resume is not None:
            return worker_requests.resume(self._request.session_id, resume, self.output, left)
        return worker_requests.start(
            self._request,
            self._began,
            self.output,
            model_revision=self.model_revision,
            max_output_tokens=self._max_output_tokens,
            priority=self._ask.priority,
            milliseconds_left=left,
        )


def poisonous(faults: int) -> Refused:
    """The step is given up: each worker that tried it failed."""
    return Refused(Reason.INTERNAL, f"{faults} workers failed on this step; their logs have the cause")
