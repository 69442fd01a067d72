"""The calls of a step to a worker: Generate, a stream, and Render; and what their failures mean for the step."""

import asyncio
import logging
from array import array
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio

from roost.contract.events import FinishReason
from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import ToolCall
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.grpc_errors import details_of
from roost.store.interface import SessionStore
from roost.store.records import Descriptor, LogEntry
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as worker_pb
from roost.v1.worker_service_pb2 import Cancel, Commit, GenerateRequest, GenerateResponse, History
from roost.wire import enum_member, head_to_wire, logprobs_from_wire
from roost.wire_parts import parts_from_wire
from roost.wire_why import eviction_from_wire
from roost_gateway.fleet.generate_call import GenerateCall
from roost_gateway.fleet.worker_client import WorkerClients, refusal_of
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step import worker_requests
from roost_gateway.step.attempt import Failure, StepAttempt, WorkerFailureError
from roost_gateway.step.output import KvReport, OutputGapError, RenderedStep, StepOutcome
from roost_gateway.step.rewriting import Rewriting
from roost_gateway.telemetry import trace_metadata

log = logging.getLogger(__name__)

RUN_IDS = 64 * 1024
"""Ids in one History message: 256 KiB."""
_ENTRIES = 32
PARTING_SECONDS = 2.0
"""How long a worker has to read a Cancel or Commit."""


class SessionHistory:
    """The ids of a session's current generation up to its head, for a worker that lacks them."""

    def __init__(self, store: SessionStore, session: Descriptor) -> None:
        self._store = store
        self._session_id = session.session_id
        self._generation = session.generation
        self._length = session.head.length
        self._steps = session.steps

    async def runs(self, start: int) -> AsyncIterator[History]:
        """Yields at least one run of ids, from position `start` to the head, with the ends of its steps; `last` marks
        the final run.

        Raises StoreAwayError.
        """
        start = min(start, self._length)
        ends = await self._step_ends(start)
        while True:
            stop = min(self._length, start + RUN_IDS)
            ids = await self._store.ids(self._session_id, self._generation, start, stop)
            within = [end for end in ends if start < end <= stop]
            yield History(offset=start, token_ids=ids, last=stop == self._length, step_ends=within)
            if stop == self._length:
                return
            start = stop

    async def _step_ends(self, start: int) -> list[int]:
        """Where steps end after `start`, ascending. Read from the log's end, since workers mostly lack the last
        steps."""
        ends: list[int] = []
        first = self._steps
        while first > 0 and (not ends or ends[-1] > start):
            count = min(_ENTRIES, first)
            first -= count
            entries = await self._store.log(self._session_id, self._generation, first, count)
            ends.extend(entry.head.length for entry in reversed(entries))
        return sorted(end for end in ends if end > start)


class WorkerStream:
    """A Generate stream. Use `commit`, `cancel` or `leave` at its end. It takes what the worker sends, as it comes."""

    def __init__(
        self,
        attempt: StepAttempt,
        earlier: AttemptRef | None,
        worker: WorkerState,
        clients: WorkerClients,
        store: SessionStore,
        on_accepted: Callable[["array[int]", int, KvReport], None],
    ) -> None:
        """Prepares what the worker is sent: to begin the step, or to resume the output that it has of `earlier`.

        The output goes to `attempt.output`, after `on_accepted` was called with the prompt's ids, the tokens of the
        context that the worker expects to find in its cache, and what it reports of those that it has dropped.
        """
        self.worker_id = worker.worker_id
        self.channel = clients.channel(worker.address)
        self._boot = worker.lease.boot
        self._clients = clients
        self._first = worker_requests.start(attempt) if earlier is None else worker_requests.resume(attempt, earlier)
        self._history = SessionHistory(store, attempt.descriptor)
        self._attempt = attempt
        self._on_accepted = on_accepted
        self.sent = False
        """Whether a connection has taken the step, so that the worker may have begun it."""
        self._call: GenerateCall | None = None
        self._sending: asyncio.Task[None] | None = None
        """Sends what the worker lacks of the log."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished.add_done_callback(_observe)
        self._over = asyncio.Event()

    async def finished(self) -> None:
        """Sends the step and waits for the end of the output.

        Raises WorkerFailureError; Refused when no other worker would do better; StoreAwayError when the log could not
        be read; and what `on_accepted` raises.
        """
        self._call = await self._open()
        self.sent = await self._call.write(self._first)
        await self._finished

    async def _open(self) -> GenerateCall:
        secret, trace = self._clients.secret(self._attempt.pool.pool), trace_metadata()
        size = self._first.ByteSize()
        try:
            while (call := await self.channel.generate(secret, trace, self, size, self._boot)) is None:
                self.channel = self._clients.channel(self.channel.address)
        except grpc.aio.AioRpcError as error:
            raise classify(error) from error
        return call

    def take(self, response: GenerateResponse) -> None:
        """Takes a message of the worker, as `GenerateReader` says. After the end of the output none counts."""
        if self._finished.done():
            return
        try:
            self._take(response)
        except OutputGapError as error:
            self._fail(WorkerFailureError(Failure.FAULTY, str(error)))
        except Exception as error:
            self._fail(error)

    def ended(self, error: grpc.aio.AioRpcError | None) -> None:
        """Takes the end of the stream, as `GenerateReader` says."""
        self._over.set()
        if error is None:
            self._fail(WorkerFailureError(Failure.LOST, "the worker ended the stream before Finished"))
        else:
            self._fail(classify(error))

    def _take(self, response: GenerateResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "delta":
            self._take_delta(response.delta)
        elif kind == "accepted":
            accepted = response.accepted
            prompt_ids = array("I", accepted.prompt_token_ids)
            self._on_accepted(prompt_ids, accepted.cached_tokens, _kv_report(accepted))
        elif kind == "need_history":
            self._sending = asyncio.create_task(self._send_history(response.need_history.from_token))
        elif kind == "finished":
            self._attempt.output.finish(_finish(response.finished))
            self._finished.set_result(None)

    def _take_delta(self, delta: worker_pb.Delta) -> None:
        logprobs = logprobs_from_wire(delta.logprobs) if delta.logprobs else ()
        output = self._attempt.output
        parts = parts_from_wire(delta.parts) if delta.parts else ()
        at = (delta.token_offset, delta.text_offset)
        output.append(delta.token_ids, delta.text, *at, logprobs, parts, delta.part_offset)
        self._attempt.output_came()

    def _fail(self, error: Exception) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)

    async def _send_history(self, start: int) -> None:
        assert self._call is not None
        try:
            async for run in self._history.runs(start):
                await self._call.write(GenerateRequest(history=run))
            fault_point("gateway.history.sent")
        except Exception as error:
            self._fail(error)

    async def commit(self, head: Head) -> None:
        """Reports to the worker that the step is durable. A worker that is gone by now rebuilds it from the log."""
        await self._part(GenerateRequest(commit=Commit(head=head_to_wire(head))))

    async def cancel(self) -> None:
        """Stops the attempt and frees what it holds."""
        await self._part(GenerateRequest(cancel=Cancel()))

    def leave(self) -> None:
        """Breaks the stream: the attempt goes on as an orphan, for another attempt to resume."""
        self._stop_sending()
        if self._call is not None:
            self._call.leave()

    async def _part(self, last: GenerateRequest) -> None:
        """Sends the last message and waits for the stream's end: one that ends earlier may be torn down before the
        worker has read it."""
        self._stop_sending()
        if self._call is None:
            return
        try:
            async with asyncio.timeout(PARTING_SECONDS):
                if await self._call.write(last):  # else it has ended, or was left
                    self._call.done_writing()
                    await self._over.wait()
        except TimeoutError:
            log.info("worker %s did not end a stream", self.worker_id)
        finally:
            self._call.leave()  # unless it has ended: else the worker would wait for the end of the attempt

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()


def _observe(finished: "asyncio.Future[None]") -> None:
    """A stream that was cancelled or left may end with an error that nobody waits for."""
    if not finished.cancelled():
        finished.exception()


def _finish(wire: worker_pb.Finished) -> StepOutcome:
    return StepOutcome(
        reason=enum_member(FinishReason, pb.FinishReason, "FINISH_REASON", wire.finish_reason),
        text=wire.text,
        content=wire.content,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments_json) for call in wire.tool_calls),
        output_tokens=wire.output_tokens,
        cached_tokens=wire.cached_tokens,
        warnings=tuple(wire.warnings),
        reasoning=wire.reasoning,
        reasoning_tokens=wire.reasoning_tokens,
        stop_string=wire.stop_string,
        gpu_seconds=wire.gpu_seconds,
        kv=_kv_report(wire),
    )


def _kv_report(wire: worker_pb.Accepted | worker_pb.Finished) -> KvReport:
    eviction = eviction_from_wire(wire.eviction) if wire.HasField("eviction") else None
    return KvReport(eviction, wire.block_tokens, wire.ahead_tokens)


async def render(
    attempt: StepAttempt, entries: Sequence[LogEntry], plan: Rewriting, worker: WorkerState, clients: WorkerClients
) -> list[RenderedStep]:
    """The steps of the session's log that do not keep their tokens, in those of the revision that the attempt needs,
    which the worker serves.

    Raises WorkerFailureError, or Refused when no other worker would do better.
    """
    metadata = clients.metadata(attempt.pool.pool)
    rendered = list[RenderedStep]()
    for piece in worker_requests.pieces(entries, plan):
        request = worker_requests.render_request(attempt, piece, rendered, plan)
        seconds = attempt.call.milliseconds_left / 1000
        stub = clients.channel(worker.address).stub  # again for each piece: a closed channel takes no calls
        try:
            response = await stub.Render(request, metadata=metadata, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise classify(error) from error
        rendered += (RenderedStep(step.prompt_token_ids, step.output_token_ids) for step in response.steps)
    return rendered


def classify(error: grpc.aio.AioRpcError) -> WorkerFailureError | Refused:
    """What a worker's status means for the step: another worker may go on, or the client gets the refusal."""
    code, message, details = error.code(), error.details() or "", details_of(error)
    reason = Reason(details.reason) if details.reason in Reason.__members__ else None
    if reason in _BUSY:
        return WorkerFailureError(Failure.BUSY, message)
    if reason is Reason.ATTEMPT_UNKNOWN:
        return WorkerFailureError(Failure.UNKNOWN_ATTEMPT, message)
    refusal = refusal_of(error, _FOR_THE_CLIENT)
    if refusal is not None:
        return refusal
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        log.error("a worker refuses this gateway's pool secret; give both the same: %s", message)
        return WorkerFailureError(Failure.FAULTY, message)
    if reason is Reason.WORKER_FAILED:
        return WorkerFailureError(Failure.FAULTY, message)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
        return WorkerFailureError(Failure.LOST, message, engine_died=reason is Reason.WORKER_LOST)
    return WorkerFailureError(Failure.FAULTY, f"{code.name}: {message}")


_BUSY = (
    Reason.WORKER_DRAINING,
    Reason.NO_WORKER,
    Reason.QUEUE_FULL,
    Reason.QUEUE_TIMEOUT,
    Reason.MODEL_REVISION_MISMATCH,
)
_FOR_THE_CLIENT = (Reason.ATTEMPT_FENCED, Reason.DEADLINE_EXCEEDED)
"""Besides those that find fault with the request."""
