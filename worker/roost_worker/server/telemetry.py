"""OpenTelemetry of a worker: a span per Generate in the caller's trace, engine gauges, a Prometheus endpoint."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, start_http_server

from roost_worker.server.attempts import Attempt
from roost_worker.server.shell import Shell

_PROPAGATOR = TraceContextTextMapPropagator()
_Values = Callable[[Shell], Iterable[Observation]]


class WorkerTelemetry:
    """Sends traces to `$OTEL_EXPORTER_OTLP_ENDPOINT`, if set, and serves metrics to Prometheus after `serve`."""

    def __init__(self, worker_id: str, tracer_provider: TracerProvider | None = None) -> None:
        resource = Resource.create({"service.name": "roost-worker", "service.instance.id": worker_id})
        self._traces = tracer_provider or TracerProvider(resource=resource, shutdown_on_exit=False)
        if tracer_provider is None and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # slow to import

            self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry)
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._server: Any = None
        self._shell: Shell | None = None

    @property
    def tracer(self) -> Tracer:
        return self._traces.get_tracer("roost.worker")

    def observe(self, shell: Shell) -> None:
        """Report the shell's engine from now on."""
        self._shell = shell
        meter = self._metrics.get_meter("roost.worker")
        for name, unit, description, values in _GAUGES:
            meter.create_observable_gauge(f"roost.worker.{name}", [self._callback(values)], unit, description)
        for name, unit, description, values in _COUNTERS:
            meter.create_observable_counter(f"roost.worker.{name}", [self._callback(values)], unit, description)

    def serve(self, host: str, port: int) -> int:
        """Serve `/metrics`; return the port. Raise OSError naming the fix when the port is taken."""
        try:
            self._server, _ = start_http_server(port, host, registry=self._registry)
        except OSError as error:
            raise OSError(f"metrics port {port} on {host}: {error}; choose another metrics_port, or 0") from error
        return int(self._server.server_port)

    def close(self) -> None:
        """Send the remaining traces and end the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._traces.shutdown()
        self._metrics.shutdown()

    def _callback(self, values: _Values) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: values(self._shell) if self._shell else ()


@contextmanager
def generate_span(tracer: Tracer, sent: Iterable[tuple[str, str | bytes]], shell: Shell) -> Iterator[Span]:
    """Open a server span in the trace that `traceparent` names in the metadata that was sent."""
    metadata = {key: str(value) for key, value in sent}
    attributes = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": shell.config.model.name,
        "roost.worker.id": shell.identity.worker_id,
    }
    with tracer.start_as_current_span(
        "roost.worker.Generate", _PROPAGATOR.extract(metadata), SpanKind.SERVER, attributes
    ) as span:
        yield span


def note_attempt(span: Span, attempt: Attempt) -> None:
    """Add a finished attempt's usage to its span."""
    log_tokens = len(attempt.log.ids) if attempt.log else 0
    span.set_attributes(
        {
            "roost.session.id": attempt.session,
            "roost.attempt.epoch": attempt.ref.epoch,
            "gen_ai.usage.input_tokens": log_tokens + len(attempt.prompt_ids),
            "gen_ai.usage.output_tokens": len(attempt.output.ids),
            "roost.cached_tokens": attempt.cached_tokens,
            "roost.queue_ms": round(attempt.queue_seconds * 1000),
        }
    )


def _block_states(shell: Shell) -> Iterable[Observation]:
    stats = shell.stats
    for state, count in (
        ("free", stats.blocks_free),
        ("cached", stats.blocks_cached),
        ("in_use", stats.blocks_in_use),
    ):
        yield Observation(count, {"state": state})


def _warm_tokens(shell: Shell) -> Iterable[Observation]:
    yield Observation(sum(shell.residency.in_host_memory.values()))


def _host_bytes(shell: Shell) -> Iterable[Observation]:
    yield Observation(shell.stats.host_blocks * shell.engine.info.bytes_per_block)


def _copied(shell: Shell) -> Iterable[Observation]:
    stats = shell.stats
    for outcome, count in (
        ("offloaded", stats.offloaded_blocks),
        ("displaced", stats.displaced_blocks),
        ("restored", stats.restored_blocks),
        ("discarded", stats.discarded_blocks),
        ("corrupted", stats.corrupted_blocks),
    ):
        yield Observation(count, {"outcome": outcome})


def _guessed(shell: Shell) -> Iterable[Observation]:
    stats = shell.stats
    yield Observation(stats.right_draft_tokens, {"outcome": "right"})
    yield Observation(stats.draft_tokens - stats.right_draft_tokens, {"outcome": "wrong"})


def _rebuilt_ahead(shell: Shell) -> Iterable[Observation]:
    ahead = shell.rebuilds.ahead
    for outcome, count in (("rebuilt", ahead.rebuilt), ("used", ahead.used), ("wasted", ahead.wasted)):
        yield Observation(count, {"outcome": outcome})


_GAUGES: tuple[tuple[str, str, str, _Values], ...] = (
    ("queue", "{request}", "Attempts that wait for blocks", lambda s: [Observation(s.stats.waiting)]),
    ("running", "{request}", "Attempts that have blocks", lambda s: [Observation(s.stats.running)]),
    ("kv.blocks", "{block}", "KV blocks by state", _block_states),
    ("cached", "{token}", "Tokens of parked sequences", lambda s: [Observation(sum(s.residency.on_device.values()))]),
    ("sessions", "{session}", "Sessions with a parked sequence", lambda s: [Observation(len(s.residency.on_device))]),
    ("warm", "{token}", "Tokens of sessions in host memory", _warm_tokens),
    ("host_memory", "By", "Bytes of host memory that hold copies of KV", _host_bytes),
    ("attempts", "{attempt}", "Attempts, orphans included", lambda s: [Observation(len(s.attempts))]),
)
_COUNTERS: tuple[tuple[str, str, str, _Values], ...] = (
    ("tokens.generated", "{token}", "Generated tokens", lambda s: [Observation(s.stats.generated_tokens)]),
    ("tokens.guessed", "{token}", "Guessed tokens, and whether they were drawn", _guessed),
    ("tokens.prefilled", "{token}", "Prefilled tokens", lambda s: [Observation(s.stats.prefilled_tokens)]),
    ("tokens.looked_up", "{token}", "Context tokens looked up", lambda s: [Observation(s.stats.lookup_tokens)]),
    ("tokens.hit", "{token}", "Context tokens found in the cache", lambda s: [Observation(s.stats.hit_tokens)]),
    ("host_memory.blocks", "{block}", "KV blocks and what became of them", _copied),
    ("ahead", "{token}", "Tokens rebuilt ahead of steps, and what became of them", _rebuilt_ahead),
    ("preemptions", "{preemption}", "Requests that lost their blocks", lambda s: [Observation(s.stats.preemptions)]),
)
