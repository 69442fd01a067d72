"""A step as its caller sees it: an async iterator of events that survives the death of gateways."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol, Self

import grpc

from roost import wire, wire_steps
from roost._faults import from_rpc_error
from roost._output import Output
from roost._result import StepResult
from roost._retry import Patience
from roost._telemetry import StepSpan
from roost._transport import Gateway, Transport
from roost.contract.events import Committed, Delta, Event, Migrated, Restarted, Started, TokenLogprobs
from roost.contract.steps import Deltas, StepRequest
from roost.errors import (
    AnotherStepRunningError,
    RoostError,
    SessionRolledBackError,
    StepCancelledError,
    StreamError,
    UnavailableError,
)


class OnEnd(Protocol):
    """Called when a step ends. `left`: the caller left early, and a gateway may still be running the step."""

    def __call__(self, *, left: bool) -> None: ...


class Step:
    """A step under way; iterate it with `async for`.

    Nothing is sent before the first event is awaited. Leaving the loop early cancels the step; it does so at once
    inside `async with session.step(…) as events:`. A step can be iterated once; `result` collects all of it.
    """

    def __init__(
        self,
        transport: Transport,
        request: StepRequest,
        deadline: float | None,
        on_head: Callable[[Committed | Migrated], None],
        *,
        on_end: OnEnd,
        straggler_seconds: float,
    ) -> None:
        self._transport = transport
        self._request = wire_steps.step_request_to_wire(request)  # now, so that what cannot be sent fails at once
        self._is_silent = request.deltas is Deltas.NONE
        self._deadline = deadline
        self._on_head = on_head
        self._output = Output()
        self._committed: Committed | None = None
        self._failure: RoostError | None = None
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._migrated: Migrated | None = None
        self._straggler_seconds = straggler_seconds
        self._on_end = on_end
        self._events = self._run()

    @property
    def step_id(self) -> str:
        """Idempotency key: a step with the same id and content continues or returns this one."""
        return self._request.step_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._events)
        self._collect(event)
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels the step unless it is committed."""
        await self._events.aclose()

    async def result(self) -> StepResult:
        """Runs the step, or what is left of it, to its end, and returns all of it. May be called again.

        Raises RoostError; StepCancelledError when the step was left before its end.
        """
        async for _ in self:
            pass
        if self._failure is not None:
            raise self._failure
        if self._committed is None:
            raise StepCancelledError("the step was left before its end", status=grpc.StatusCode.CANCELLED)
        return StepResult(
            committed=self._committed,
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            migrated=self._migrated,
        )

    def _collect(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._text.append(event.text)
            self._token_ids += event.token_ids
            self._logprobs += event.logprobs
        elif isinstance(event, Restarted):
            for collected in (self._text, self._token_ids, self._logprobs):
                collected.clear()
        elif isinstance(event, Migrated):
            self._migrated = event

    async def _run(self) -> AsyncGenerator[Event, None]:
        span = StepSpan({"roost.session_id": self._request.session_id, "roost.step_id": self.step_id})
        try:
            async with aclosing(self._tries(span)) as events:
                async for event in events:
                    if isinstance(event, Committed):  # ended here, as the caller may not iterate past the last event
                        span.end(_span_attributes(event))
                    yield event
        except RoostError as error:
            error.step_id = self.step_id
            self._failure = error
            span.fail(error)
            raise
        finally:
            span.end()
            self._on_end(left=self._committed is None and not isinstance(self._failure, AnotherStepRunningError))

    async def _tries(self, span: StepSpan) -> AsyncGenerator[Event, None]:
        patience, tries = self._transport.patience(self._deadline, self._straggler_seconds), 1
        while True:
            gateway = self._transport.current
            try:
                async with aclosing(self._try(gateway, patience, span)) as events:
                    async for event in events:
                        yield event
                if self._committed:
                    return
                raise UnavailableError(
                    "the gateway ended the stream before the step was committed", status=grpc.StatusCode.UNAVAILABLE
                )
            except grpc.aio.AioRpcError as failure:
                if self._committed:  # a failure after the last event changes nothing
                    return
                error = self._explain(failure)
            except UnavailableError as failure:
                error = failure
            error.tries = tries
            await self._transport.recover(gateway, error, patience)
            span.event("retry", {"reason": error.reason or error.status.name, "tokens": self._output.tokens})
            tries += 1

    async def _try(self, gateway: Gateway, patience: Patience, span: StepSpan) -> AsyncGenerator[Event, None]:
        """Events of one call, which is cancelled when the caller stops listening."""
        cursor = self._output.cursor()
        if cursor is not None:
            self._request.received.CopyFrom(wire_steps.cursor_to_wire(cursor))
        call = gateway.stub.Step(
            self._request,
            timeout=patience.remaining(time.monotonic()),
            metadata=self._transport.metadata(span.metadata()),
        )
        working_since: float | None = None
        try:
            with self._transport.cut_off_by_close():
                async for response in call:
                    furthest = self._output.furthest
                    event = self._take(wire_steps.event_from_wire(self.step_id, response))
                    if self._output.furthest > furthest:
                        patience.progress()
                    if isinstance(event, Started) and working_since is None and self._is_silent:
                        working_since = time.monotonic()
                    if event is not None:
                        yield event
        finally:
            if working_since is not None:
                patience.worked(time.monotonic() - working_since)
            call.cancel()

    def _take(self, event: Event | None) -> Event | None:
        """What of `event` is news to the caller; None when nothing is."""
        if isinstance(event, Delta):
            return self._output.accept(event)
        if isinstance(event, Started):
            self._output.begin(event)
        elif isinstance(event, Restarted):
            self._output.restart(event)
        elif isinstance(event, Migrated):  # when the step is sent again, it continues the new log
            self._request.expected_head.CopyFrom(wire.head_to_wire(event.head))
            self._on_head(event)
        elif isinstance(event, Committed):
            self._commit(event)
        return event

    def _commit(self, committed: Committed) -> None:
        if self._output.tokens != committed.output_tokens:
            raise StreamError(f"the step has {committed.output_tokens} tokens, but {self._output.tokens} of them came")
        self._committed = committed
        self._on_head(committed)

    def _explain(self, failure: grpc.aio.AioRpcError) -> RoostError:
        error = from_rpc_error(failure)
        if isinstance(error, SessionRolledBackError) and self._request.HasField("expected_head"):
            error.expected = wire.head_from_wire(self._request.expected_head)
        return error


def _span_attributes(committed: Committed) -> dict[str, str | int]:
    why = {} if committed.why is None else {"roost.why": committed.why.line}
    return {"roost.output_tokens": committed.output_tokens, "roost.failovers": committed.failovers, **why}
