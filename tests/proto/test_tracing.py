"""The SDK takes part in the application's traces."""

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roost import Client, Committed, _telemetry, errors
from roost.contract.reasons import Reason
from scripted_gateway import BREAK, QUICK, SESSION, Refuse, ScriptedGateway, committed


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Spans of the SDK, as an application with a tracer provider of its own sees them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def traceparent(span: ReadableSpan) -> str:
    """The header without its flags."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}"


async def test_a_step_is_one_span_over_all_its_tries(spans: InMemorySpanExporter) -> None:
    async with (
        ScriptedGateway([BREAK], [committed("")]) as gateway,
        await Client.connect(gateway.target, retry=QUICK) as client,
    ):
        await client.session(SESSION).run("x", step_id="s")
    (span,) = spans.get_finished_spans()
    assert span.name == "roost.step"
    assert span.attributes is not None
    assert span.attributes["roost.session_id"] == SESSION
    assert span.attributes["roost.step_id"] == "s"
    assert [event.name for event in span.events] == ["retry"]
    assert [entry["traceparent"][:-3] for entry in gateway.metadata] == [traceparent(span)] * 2


async def test_the_span_ends_with_the_commit_and_once(
    spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    last = committed("")
    last.committed.why.worker = "w"
    async with ScriptedGateway([last]) as gateway, await Client.connect(gateway.target) as client:
        step = client.session(SESSION).step("x")
        assert isinstance(await anext(step), Committed)
        (span,) = spans.get_finished_spans()
        await step.aclose()
    assert span.attributes is not None
    assert span.attributes["roost.output_tokens"] == 0
    assert span.attributes["roost.why"] == "the session's first step"
    assert caplog.records == []


async def test_a_failed_step_is_a_failed_span(spans: InMemorySpanExporter) -> None:
    fenced = Refuse(grpc.StatusCode.ABORTED, Reason.ATTEMPT_FENCED)
    async with ScriptedGateway([fenced]) as gateway, await Client.connect(gateway.target) as client:
        with pytest.raises(errors.AttemptFencedError):
            await client.session(SESSION).run("x")
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_other_calls_carry_the_callers_context(spans: InMemorySpanExporter) -> None:
    async with ScriptedGateway() as gateway, await Client.connect(gateway.target) as client:
        with trace.get_tracer("app").start_as_current_span("app") as span:
            await client.session(SESSION).info()
            assert isinstance(span, ReadableSpan)
            assert gateway.metadata[0]["traceparent"][:-3] == traceparent(span)


async def test_without_opentelemetry_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_telemetry, "trace", None)
    monkeypatch.setattr(_telemetry, "propagate", None)
    async with (
        ScriptedGateway([BREAK], [committed("")]) as gateway,
        await Client.connect(gateway.target, retry=QUICK) as client,
    ):
        await client.session(SESSION).run("x")
    assert "traceparent" not in gateway.metadata[0]
