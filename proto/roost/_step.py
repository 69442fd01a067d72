"""One step as its caller sees it: an async iterator of events that survives the death of gateways."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Self

import grpc

from roost import _wire as wire
from roost._faults import from_rpc_error
from roost._output import Output
from roost._records import Committed, Delta, Event, Head, Queued, Restarted, Started, StepResult
from roost._retry import Patience
from roost._telemetry import StepSpan
from roost._transport import Gateway, Transport
from roost.errors import RoostError, SessionRolledBackError, StreamError, UnavailableError
from roost.v1 import session_service_pb2 as pb


class Step:
    """A step under way; iterate it with `async for`.

    Nothing is sent before the first event is asked for. Leaving the loop early cancels the step, at once when it is
    used as `async with session.step(…) as events:`. A step can be iterated once.
    """

    def __init__(
        self,
        transport: Transport,
        request: pb.StepRequest,
        deadline: float | None,
        on_commit: Callable[[Committed], None],
    ) -> None:
        self._transport = transport
        self._request = request
        self._deadline = deadline
        self._on_commit = on_commit
        self._output = Output()
        self._committed = False
        self._events = self._run()

    @property
    def step_id(self) -> str:
        """Idempotency key: a step with the same id and content continues or returns this one."""
        return self._request.step_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels the step unless it is committed."""
        await self._events.aclose()

    async def result(self) -> StepResult:
        """Runs the step to its end. Raises RoostError."""
        text: list[str] = []
        token_ids: list[int] = []
        result: StepResult | None = None
        async for event in self:
            if isinstance(event, Delta):
                text.append(event.text)
                token_ids.extend(event.token_ids)
            elif isinstance(event, Restarted):
                text.clear()
                token_ids.clear()
            elif isinstance(event, Committed):
                result = StepResult(event, "".join(text), tuple(token_ids))
        if result is None:
            raise StreamError("this step was iterated before; make a new one")
        return result

    async def _run(self) -> AsyncGenerator[Event, None]:
        span = StepSpan({"roost.session_id": self._request.session_id, "roost.step_id": self.step_id})
        try:
            async with aclosing(self._tries(span)) as events:
                async for event in events:
                    if isinstance(event, Committed):  # ended here: its caller may never ask for what comes after
                        span.end({"roost.output_tokens": event.output_tokens, "roost.failovers": event.failovers})
                    yield event
        except RoostError as error:
            error.step_id = self.step_id
            span.fail(error)
            raise
        finally:
            span.end()

    async def _tries(self, span: StepSpan) -> AsyncGenerator[Event, None]:
        patience, tries = self._transport.patience(self._deadline), 1
        while True:
            gateway = self._transport.current
            try:
                async with aclosing(self._one_try(gateway, patience, span)) as events:
                    async for event in events:
                        yield event
                if self._committed:
                    return
                raise UnavailableError(
                    "the gateway ended the stream before the step was committed", status=grpc.StatusCode.UNAVAILABLE
                )
            except grpc.aio.AioRpcError as failure:
                if self._committed:  # all is said
                    return
                error = self._explain(failure)
            except UnavailableError as failure:
                error = failure
            error.tries = tries
            await self._transport.recover(gateway, error, patience)
            span.event("retry", {"reason": error.reason or error.status.name, "tokens": self._output.tokens})
            tries += 1

    async def _one_try(self, gateway: Gateway, patience: Patience, span: StepSpan) -> AsyncGenerator[Event, None]:
        """Events of one call. The call is cancelled when the caller stops listening."""
        cursor = self._output.cursor()
        if cursor is not None:
            self._request.received.CopyFrom(cursor)
        call = gateway.stub.Step(
            self._request,
            timeout=patience.remaining(time.monotonic()),
            metadata=self._transport.metadata(span.metadata()),
        )
        try:
            async for response in call:
                event = self._read(response)
                if isinstance(event, Delta):
                    patience.progress()
                if event is not None:
                    yield event
        finally:
            call.cancel()

    def _read(self, response: pb.StepResponse) -> Event | None:
        kind = response.WhichOneof("event")
        if kind == "delta":
            return self._output.accept(response.delta)
        if kind == "started":
            started = response.started
            self._output.begin(started.attempt)
            return Started(started.worker, started.prompt_tokens, started.cached_tokens)
        if kind == "queued":
            return Queued(response.queued.position)
        if kind == "restarted":
            return self._output.restart(response.restarted)
        if kind == "committed":
            return self._commit(wire.committed_from_wire(self.step_id, response.committed))
        return None  # an event of a newer gateway

    def _commit(self, committed: Committed) -> Committed:
        if self._output.tokens != committed.output_tokens:
            raise StreamError(f"the step has {committed.output_tokens} tokens, but {self._output.tokens} of them came")
        self._committed = True
        self._on_commit(committed)
        return committed

    def _explain(self, failure: grpc.aio.AioRpcError) -> RoostError:
        error = from_rpc_error(failure)
        if isinstance(error, SessionRolledBackError) and self._request.HasField("expected_head"):
            head = self._request.expected_head
            error.expected = Head(head.length, head.log_hash)
        return error
