"""One span per step and W3C trace context in the metadata, if the application has installed opentelemetry-api."""

from collections.abc import Mapping
from typing import Any

try:
    from opentelemetry import propagate, trace
except ImportError:  # optional: the SDK does not depend on it
    propagate = trace = None  # type: ignore[assignment]

Metadata = tuple[tuple[str, str], ...]


def trace_metadata(context: Any = None) -> Metadata:
    """`traceparent` and what else the application's propagators add, from `context` or the current context."""
    if propagate is None:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=context)
    return tuple((key.lower(), value) for key, value in carrier.items())


class StepSpan:
    """The span `roost.step` around a step and all its tries.

    It never becomes the current span: a step is an async generator, and its caller's context must not change between
    events.
    """

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._span: Any = None
        self._context: Any = None
        if trace is not None:
            tracer = trace.get_tracer("roost")
            self._span = tracer.start_span("roost.step", kind=trace.SpanKind.CLIENT, attributes=dict(attributes))
            self._context = trace.set_span_in_context(self._span)

    def metadata(self) -> Metadata:
        return trace_metadata(self._context)

    def event(self, name: str, attributes: Mapping[str, str | int | float]) -> None:
        if self._span is not None:
            self._span.add_event(name, dict(attributes))

    def fail(self, error: BaseException) -> None:
        if self._span is not None:
            self._span.record_exception(error)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))

    def end(self, attributes: Mapping[str, str | int] | None = None) -> None:
        """Ends the span. Later calls do nothing."""
        if self._span is not None:
            self._span.set_attributes(dict(attributes or {}))
            self._span.end()
            self._span = None
