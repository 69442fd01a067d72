"""Why tokens were rebuilt, from a session's record, where the step ran and what the worker reports; and the span that
says it."""

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roost.contract.heads import Head
from roost.contract.sessions import ForkPoint
from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
from roost.store.records import Descriptor, FormerLog
from roost_gateway.step.explanation import cause_of, rebuilt_tokens
from roost_gateway.step.output import KvReport
from roost_gateway.telemetry import StepFigures, Telemetry

HEAD = Head(1000, b"h" * 16)
SESSION = Descriptor(
    session_id="default/p/" + "0" * 26,
    tenant="t",
    pool="default/p",
    role="r",
    task="",
    parent="",
    labels={},
    system="",
    tools=(),
    model="m",
    model_revision="rev-2",
    head=HEAD,
    steps=3,
    owner="home",
)
MIGRATED = replace(SESSION, owner="", former=FormerLog(HEAD, 3, "rev-1"))
WITHOUT_THINKING = replace(SESSION, former=FormerLog(HEAD, 3, "rev-2"))
LATER = replace(SESSION, former=FormerLog(HEAD, 2, "rev-1"))
EVICTED = replace(SESSION, owner="")
FORK = replace(SESSION, forked_from=ForkPoint("default/p/" + "1" * 26, HEAD), inherited_steps=3)
ROOM, REQUEST = KvEviction(500, 1.0), KvEviction(500, 1.0, requested=True)


@pytest.mark.parametrize(
    ("session", "place", "rebuilt", "report", "cause"),
    [
        (SESSION, Place.HOME, 500, KvReport(ROOM, 16), RebuildCause.EVICTED_FOR_ROOM),
        (SESSION, Place.HOME, 5, KvReport(ROOM, 16), RebuildCause.EVICTED_FOR_ROOM),
        (SESSION, Place.HOME, 500, KvReport(REQUEST, 16), RebuildCause.EVICTED_ON_REQUEST),
        (SESSION, Place.HOME, 15, KvReport(None, 16), RebuildCause.BLOCK_END),
        (SESSION, Place.HOME, 16, KvReport(None, 16), RebuildCause.DROPPED),
        (SESSION, Place.HOME, 5, KvReport(), RebuildCause.DROPPED),
        (SESSION, Place.HOME_FULL, 500, KvReport(ROOM, 16), RebuildCause.MOVED),
        (SESSION, Place.HOME_DRAINS, 500, KvReport(None, 16), RebuildCause.MOVED),
        (SESSION, Place.HOME_GONE, 500, KvReport(None, 16), RebuildCause.WORKER_LOST),
        (SESSION, Place.HOME_FAILED, 500, KvReport(None, 16), RebuildCause.WORKER_LOST),
        (SESSION, Place.HOME_EMPTY, 500, KvReport(None, 16), RebuildCause.DROPPED),
        (SESSION, Place.HOME_EMPTY, 500, KvReport(ROOM, 16), RebuildCause.EVICTED_FOR_ROOM),
        (MIGRATED, Place.NO_HOME, 500, KvReport(REQUEST, 16), RebuildCause.MODEL_CHANGED),
        (WITHOUT_THINKING, Place.HOME, 5, KvReport(ROOM, 16), RebuildCause.THINKING_DROPPED),
        (LATER, Place.HOME, 500, KvReport(None, 16), RebuildCause.DROPPED),
        (EVICTED, Place.NO_HOME, 500, KvReport(None, 16), RebuildCause.EVICTED_ON_REQUEST),
        (EVICTED, Place.NO_HOME, 500, KvReport(ROOM, 16), RebuildCause.EVICTED_FOR_ROOM),
        (FORK, Place.HOME_FULL, 500, KvReport(None, 16), RebuildCause.FORKED),
        (FORK, Place.HOME, 15, KvReport(None, 16), RebuildCause.BLOCK_END),
    ],
)
def test_the_cause(session: Descriptor, place: Place, rebuilt: int, report: KvReport, cause: RebuildCause) -> None:
    assert cause_of(session, place, rebuilt, report) is cause


def test_the_last_token_of_a_log_is_never_rebuilt() -> None:
    assert [rebuilt_tokens(*counts) for counts in ((0, 0), (10, 9), (10, 0), (10, 40))] == [0, 0, 9, 0]


@pytest.mark.parametrize(
    ("why", "attributes"),
    [
        (None, {}),
        (
            Why(Wait(1.5, 2, 0, WaitReason.LINE), "w", Place.HOME_GONE, 1000, 0, 999, RebuildCause.WORKER_LOST),
            {
                "roost.why": "waited 1.5 s behind 2 continuations; ran at w, since its home was gone; "
                "999 of 1,000 tokens rebuilt: the worker that had them was gone",
                "roost.rebuilt_tokens": 999,
                "roost.place": "home_gone",
                "roost.rebuild_cause": "worker_lost",
                "roost.wait_seconds": 1.5,
                "roost.wait_reason": "line",
            },
        ),
        (
            Why(worker="w", place=Place.NO_HOME),
            {"roost.why": "the session's first step", "roost.rebuilt_tokens": 0, "roost.place": "no_home"},
        ),
    ],
)
def test_a_span_has_the_line_and_its_facts(why: Why | None, attributes: dict[str, object]) -> None:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry("g", exporter=exporter)
    with telemetry.call("Step", ()):
        telemetry.committed(StepFigures("m", 1, 1, 0, 0.0, 0.0, 0.0, 0, why))
    telemetry.close()
    (span,) = exporter.get_finished_spans()
    names = ("roost.why", "roost.rebuil", "roost.place", "roost.wait")
    assert {name: value for name, value in (span.attributes or {}).items() if name.startswith(names)} == attributes
