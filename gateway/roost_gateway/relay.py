"""A step's output from worker to client, over as many workers as it takes.

The output is kept here from the first token to the commit. When a worker is lost, another one replays the ids and
goes on; when a gateway was lost, this one resumes the orphan at its worker. Only when nobody holds the ids does the
step begin again, and a client that has some of them is told so.
"""

import logging
import time
from array import array
from dataclasses import dataclass

import grpc

from roost.contract.faults import fault_point
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import Accepted, Delta, Finished, GenerateRequest, Replay, Resume, SessionRef, Start
from roost_gateway.committing import StepClock
from roost_gateway.convert import attempt_from_proto, attempt_to_proto, head_to_proto, tool_to_proto
from roost_gateway.errors import GatewayError
from roost_gateway.generation import Failure, Generation, WorkerFailureError
from roost_gateway.history import SessionHistory
from roost_gateway.outbox import Outbox
from roost_gateway.output import OutputGapError, StepOutput
from roost_gateway.parts import Parts
from roost_gateway.placement import Ask
from roost_gateway.routing import WorkerState
from roost_gateway.store.records import AttemptRef, Began, Refusal, RefusedError

log = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How long a step avoids a worker that had no room for it."""
MAX_FAULTS = 3
"""Workers that may fail on a step, or be lost while they work on it, before the step is taken to be at fault: one that
kills its worker must not kill them all."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a step goes next: to a worker, afresh or to resume an orphan there."""

    worker: WorkerState
    resume: AttemptRef | None = None


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
        self._orphans: list[AttemptRef] = []
        self._lost_orphan = False
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
        """The worker's Finished and its name. Raises GatewayError, RefusedError, StoreUnavailableError."""
        target = await self._first_target()
        while True:
            try:
                return await self._stream(target), target.worker.worker_id
            except WorkerFailureError as failure:
                log.info("step %s at worker %s: %s", self._request.step_id, target.worker.worker_id, failure)
                target = await self._after(target, failure)

    async def _first_target(self) -> Target:
        worker = await self._orphans_worker()
        if worker is not None:
            return Target(worker, self._orphans.pop(0))
        return await self._fresh(self._began.reserved)

    async def _orphans_worker(self) -> WorkerState | None:
        """The worker that may hold output of an attempt before this one, with its reservation taken over."""
        fenced = self._began.fenced
        if fenced is None or not fenced.worker_id:
            return None
        worker = await self._known(fenced.worker_id)
        if worker is None:
            return None
        self._orphans = [fenced.ref]
        if self._client_attempt not in (None, fenced.ref):
            self._orphans.append(self._client_attempt)
        self._ask.held.worker_id = worker.worker_id
        return worker

    async def _fresh(self, reserved: str = "") -> Target:
        """A worker for a start, or for a replay of what there is."""
        if self.output.sent_anything and (self.output.behind_client or not self._continues()):
            self._outbox.restarted(self.output, "the output of the earlier attempt is lost")
        self._client_attempt = None
        worker = await self._known(reserved) if reserved else None
        if worker is None:
            began_waiting = time.monotonic()
            worker = await self._parts.placement.place(self._ask, self._outbox.queued)
            self._clock.queue_seconds += time.monotonic() - began_waiting
        fault_point("gateway.reserve.done")
        return Target(worker)

    def _continues(self) -> bool:
        """Whether what is here is what the client has the beginning of."""
        return self.output.accepted and self._client_attempt is None

    async def _known(self, worker_id: str) -> WorkerState | None:
        worker = self._parts.workers.get(self._ask.pool.pool, worker_id)
        if worker is None:
            await self._parts.workers.refresh(self._ask.pool.pool)
            worker = self._parts.workers.get(self._ask.pool.pool, worker_id)
        return worker

    async def _after(self, target: Target, failure: WorkerFailureError) -> Target:
        """Where to go after a failure."""
        if self.generation is not None:
            self.generation.leave()
        if target.resume is not None and not self.output.accepted:
            again = await self._after_resume(target, failure)
            if again is not None:
                return again
        self._avoid(target.worker, failure)
        if self.output.accepted:
            self._ask.started = True
            self.failovers += 1
            self._parts.telemetry.failover(target.worker.worker_id)
        return await self._fresh()

    async def _after_resume(self, target: Target, failure: WorkerFailureError) -> Target | None:
        """Another try at the same worker: under the attempt that the client knows, over a new connection, or afresh."""
        if failure.failure is Failure.LOST and not self._lost_orphan:
            self._lost_orphan = True
            self._parts.clients.forget(self._parts.clients.channel(target.worker.address))
            return target
        if failure.failure is not Failure.UNKNOWN_ATTEMPT:
            return None
        if self._orphans:
            return Target(target.worker, self._orphans.pop(0))
        return await self._fresh(self._began.reserved)

    def _avoid(self, worker: WorkerState, failure: WorkerFailureError) -> None:
        if failure.failure is Failure.LOST:
            self._parts.workers.mark_broken(worker)
            self._parts.clients.forget(self._parts.clients.channel(worker.address))
        else:
            faulty = failure.failure is Failure.FAULTY
            self._ask.avoid[worker.worker_id] = self._clock.deadline if faulty else time.monotonic() + BUSY_SECONDS
        if failure.failure is Failure.FAULTY or (failure.failure is Failure.LOST and self._accepted_here):
            self._faults += 1
        if self._faults >= MAX_FAULTS:
            raise _poisonous(self._faults)

    async def _stream(self, target: Target) -> Finished:
        self.model_revision = self._ask.need.model_revision or target.worker.model_revision
        self._accepted_here = False
        channel = self._parts.clients.channel(target.worker.address)
        metadata = self._parts.clients.metadata(self._ask.pool.pool)
        first = self._resume(target.resume) if target.resume else self._start()

        def take(event: Accepted | Delta) -> None:
            if isinstance(event, Delta):
                self._take(event)
            else:
                self._accept(event, target)

        self.generation = Generation(channel, metadata, first, self._history(), take)
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
        self.output.accept(array("I", accepted.prompt_token_ids))
        if target.resume is not None:
            self.lineage = [target.resume, self._began.ref]
            if self._client_attempt not in (None, target.resume):
                self._outbox.restarted(self.output, "an attempt that the client has not seen went on")
            self._client_attempt = None
        self._check_length()
        fault_point("gateway.accepted")
        self._outbox.started(self.output, target.worker.worker_id, accepted.cached_tokens)

    def _check_length(self) -> None:
        """The worker keeps to the model's context; a pool may allow less, and what a step takes is only known now."""
        limit = self._ask.pool.max_session_tokens
        if limit and self._began.descriptor.head.length + len(self.output.prompt_ids) >= limit:
            raise RefusedError(Refusal.TOO_LONG)

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

    def _start(self) -> GenerateRequest:
        descriptor = self._began.descriptor
        sampling = pb.Sampling()
        sampling.CopyFrom(self._request.sampling)
        sampling.seed, sampling.max_tokens = self._began.seed, self._max_output_tokens
        start = Start(
            attempt=self.output.attempt,
            session=SessionRef(
                session_id=descriptor.session_id,
                generation=descriptor.generation,
                head=head_to_proto(descriptor.head),
            ),
            tenant=descriptor.tenant,
            model_revision=self.model_revision,
            system=descriptor.system,
            tools=[tool_to_proto(tool) for tool in descriptor.tools],
            messages=self._request.messages,
            sampling=sampling,
            format=self._request.format if self._request.HasField("format") else None,
            deadline_ms=self._clock.milliseconds_left,
            priority=self._ask.priority,
        )
        if self.output.accepted:
            start.replay.CopyFrom(self._replay())
        return GenerateRequest(start=start)

    def _replay(self) -> Replay:
        output = self.output
        return Replay(
            prompt_token_ids=output.prompt_ids,
            output_token_ids=output.ids,
            text_bytes=len(output.text),
            tokens=len(output.ids),
        )

    def _resume(self, orphan: AttemptRef) -> GenerateRequest:
        """From the first token: this gateway needs all of them for the commit, whatever the client has."""
        return GenerateRequest(
            resume=Resume(
                attempt=attempt_to_proto(orphan),
                new_attempt=self.output.attempt,
                session_id=self._request.session_id,
                deadline_ms=self._clock.milliseconds_left,
            )
        )


def _poisonous(faults: int) -> GatewayError:
    return GatewayError(
        grpc.StatusCode.INTERNAL, Reason.INTERNAL, f"{faults} workers failed on this step; their logs have the cause"
    )
