"""Traces and metrics of a gateway: a span per call, OpenTelemetry's gen_ai histograms, and roost_* counters.

Providers belong to the gateway, not to the process, so that several gateways in one process do not share them.
Nothing is recorded per delta: a step's figures are recorded once, at its end.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, start_http_server

from roost.contract.reasons import Reason
from roost.contract.why import Why

DURATION_BUCKETS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
FIRST_TOKEN_BUCKETS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
PER_TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
"""Buckets in seconds, from OpenTelemetry's semantic conventions for generative AI."""

DRAIN, BALANCE = "drain", "balance"
"""Why sessions are moved: their home is about to stop, or steps wait there while another worker idles."""

_PROPAGATOR = TraceContextTextMapPropagator()


class Outcome:
    """How a call ended: OK, unless `failed` is called."""

    def __init__(self) -> None:
        self.reason = "OK"

    def failed(self, reason: Reason) -> None:
        self.reason = reason.value


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Figures of a committed step. Times are seconds."""

    model: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    queue_seconds: float
    first_token_seconds: float
    total_seconds: float
    failovers: int
    why: Why | None = None


class Telemetry:
    """Spans and instruments of one gateway. In tests `reader` and `exporter` replace the real ones."""

    def __init__(
        self,
        gateway_id: str = "gateway",
        *,
        reader: MetricReader | None = None,
        exporter: SpanExporter | None = None,
    ) -> None:
        resource = Resource.create({"service.name": "roost-gateway", "service.instance.id": gateway_id})
        self.registry = CollectorRegistry()
        readers = [reader or PrometheusMetricReader(registry=self.registry)]
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
            otlp_reader, otlp_exporter = _otlp()
            readers.append(otlp_reader)
            exporter = exporter or otlp_exporter
        self._meters = MeterProvider(readers, resource)
        self._tracers = _tracer_provider(resource, exporter)
        self._tracer = (self._tracers or trace.NoOpTracerProvider()).get_tracer("roost_gateway")
        self._instruments(self._meters.get_meter("roost_gateway"))

    def _instruments(self, meter: metrics.Meter) -> None:
        def histogram(name: str, about: str, buckets: list[float]) -> metrics.Histogram:
            return meter.create_histogram(name, "s", about, explicit_bucket_boundaries_advisory=buckets)

        self._meter = meter
        self._duration = histogram("gen_ai.server.request.duration", "Time of a step", DURATION_BUCKETS)
        self._first = histogram("gen_ai.server.time_to_first_token", "Receipt to first delta", FIRST_TOKEN_BUCKETS)
        self._per_token = histogram("gen_ai.server.time_per_output_token", "After the first token", PER_TOKEN_BUCKETS)
        self._queued = histogram("roost.queue.duration", "Time a step waited for room", FIRST_TOKEN_BUCKETS)
        self._steps = meter.create_counter("roost.steps.committed", description="Steps committed")
        self._tokens = meter.create_counter("roost.tokens", description="Tokens of committed steps by kind")
        self._failovers = meter.create_counter("roost.failovers", description="Times another worker continued a step")
        self._migrations = meter.create_counter("roost.migrations", description="Logs rendered again, by reason")
        self._moved = meter.create_counter("roost.sessions.moved", description="Sessions moved, by reason")
        self._left = meter.create_counter("roost.sessions.left", description="Sessions of draining workers not moved")
        self._rebuilt = meter.create_counter("roost.moves.rebuilt", description="Tokens computed to move sessions")
        self._calls = meter.create_counter("roost.calls", description="Calls by method and outcome")

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Starts the Prometheus endpoint. Returns its port and a function that stops it.

        Raises OSError when the port is taken.
        """
        server, thread = start_http_server(port, host, registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, stop

    def gauge(self, name: str, about: str, read: Callable[[], Iterable[tuple[float, dict[str, str]]]]) -> None:
        """Adds a gauge. `read` is called at each scrape and returns values with their attributes."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, attributes) for value, attributes in read()]

        self._meter.create_observable_gauge(name, [observe], description=about)

    @contextmanager
    def call(self, method: str, metadata: Iterable[tuple[str, str | bytes]], span: str = "") -> Iterator[Outcome]:
        """Records a call: its server span, which continues the caller's trace, and its count.

        The span is named for the gRPC method unless `span` names it.
        """
        outcome = Outcome()
        with self._tracer.start_as_current_span(
            span or f"roost.v1.SessionService/{method}",
            _extract(metadata),
            trace.SpanKind.SERVER,
            record_exception=False,
        ) as current:
            try:
                yield outcome
            finally:
                current.set_attribute("roost.outcome", outcome.reason)
                self._calls.add(1, {"method": method, "outcome": outcome.reason})

    def name_step(self, session_id: str, model: str) -> None:
        """Sets session and model on the current span."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.conversation.id": session_id,
                    "gen_ai.request.model": model,
                }
            )

    def event(self, name: str, **attributes: str | int) -> None:
        """Adds an event to the current span."""
        trace.get_current_span().add_event(name, attributes)

    def failover(self, worker: str) -> None:
        self._failovers.add(1)
        self.event("roost.failover", worker=worker)

    def migrated(self, revision: str, tokens: int, *, is_moved: bool) -> None:
        """Records a new log: `is_moved` to another revision, or else without thinking."""
        self._migrations.add(1, {"reason": "model" if is_moved else "thinking"})
        self.event("roost.migration", revision=revision, tokens=tokens)

    def session_moved(self, rebuilt_tokens: int, reason: str) -> None:
        """Records a session that has a new home since its old one was to `DRAIN`, or for `BALANCE`."""
        self._moved.add(1, {"reason": reason})
        self._rebuilt.add(rebuilt_tokens, {"reason": reason})

    def sessions_left(self, sessions: int) -> None:
        """Records sessions that a worker had when it drained, which are rebuilt on demand."""
        self._left.add(sessions)

    def committed(self, figures: StepFigures) -> None:
        """Records a committed step."""
        labels = {"gen_ai.operation.name": "chat", "gen_ai.request.model": figures.model}
        self._steps.add(1, labels)
        self._duration.record(figures.total_seconds, labels)
        self._first.record(figures.first_token_seconds, labels)
        self._queued.record(figures.queue_seconds, labels)
        if figures.output_tokens > 1:
            after = figures.total_seconds - figures.first_token_seconds
            self._per_token.record(after / (figures.output_tokens - 1), labels)
        for kind in ("prompt", "output", "cached"):
            self._tokens.add(getattr(figures, f"{kind}_tokens"), {**labels, "kind": kind})
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": figures.prompt_tokens,
                    "gen_ai.usage.output_tokens": figures.output_tokens,
                    "gen_ai.usage.cache_read.input_tokens": figures.cached_tokens,
                    "roost.failovers": figures.failovers,
                    **({} if figures.why is None else _why_attributes(figures.why)),
                }
            )

    def close(self) -> None:
        """Sends what has not been exported yet."""
        self._meters.shutdown()
        if self._tracers is not None:
            self._tracers.shutdown()


def _why_attributes(why: Why) -> dict[str, str | int | float]:
    """Attributes of a span. What is unknown, or did not happen, has none."""
    attributes: dict[str, str | int | float] = {"roost.why": why.line, "roost.rebuilt_tokens": why.rebuilt_tokens}
    if why.ahead_tokens:
        attributes["roost.ahead_tokens"] = why.ahead_tokens
    if why.place is not None:
        attributes["roost.place"] = why.place.value
    if why.cause is not None:
        attributes["roost.rebuild_cause"] = why.cause.value
    if why.wait is not None:
        attributes["roost.wait_seconds"] = why.wait.seconds
    if why.wait is not None and why.wait.reason is not None:
        attributes["roost.wait_reason"] = why.wait.reason.value
    return attributes


def trace_metadata() -> list[tuple[str, str]]:
    """The current trace, as metadata for a call to a worker."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return list(carrier.items())


def _extract(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    carrier = {name: value for name, value in metadata if name in ("traceparent", "tracestate")}
    return _PROPAGATOR.extract({name: value for name, value in carrier.items() if isinstance(value, str)})


def _otlp() -> tuple[MetricReader, SpanExporter]:
    """The exporters that the standard variables configure. Imported on demand, since importing them is slow."""
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return PeriodicExportingMetricReader(OTLPMetricExporter()), OTLPSpanExporter()


def _tracer_provider(resource: Resource, exporter: SpanExporter | None) -> TracerProvider | None:
    """None without an exporter: spans that nobody reads only cost time. The caller's trace is passed on regardless."""
    if exporter is None:
        return None
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
