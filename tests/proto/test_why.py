"""The line that says why a step took its time, and that its facts have names on the wire."""

from enum import StrEnum
from typing import Any

import pytest

from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
from roost.v1 import session_service_pb2 as pb

SESSION = "default/coder/01hzzzzzzzzzzzzzzzzzzzzzzz"
ROOM = KvEviction(4096, 41.2, SESSION, "LRUSparingHeld", rebuild_seconds=0.51)


def rebuilt(cause: RebuildCause | None, eviction: KvEviction | None = None) -> Why:
    return Why(None, "w2", Place.HOME, 20480, 16383, 4096, cause, eviction)


@pytest.mark.parametrize(
    ("why", "line"),
    [
        (Why(), "the session's first step"),
        (Why(cached_tokens=512), "the session's first step, 512 tokens of its prompt cached"),
        (Why(log_tokens=20480, cached_tokens=20479), "none of 20,480 tokens rebuilt"),
        (
            Why(log_tokens=20480, cached_tokens=20479, ahead_tokens=4096),
            "none of 20,480 tokens rebuilt; 4,096 had been rebuilt ahead of it",
        ),
        (
            Why(
                Wait(1.23, 3, 0, WaitReason.LINE),
                "w1",
                Place.HOME,
                20480,
                16383,
                4096,
                RebuildCause.EVICTED_FOR_ROOM,
                ROOM,
            ),
            "waited 1.2 s behind 3 continuations; 4,096 of 20,480 tokens rebuilt: "
            f"evicted 41 s ago for session {SESSION}'s growth (LRUSparingHeld, 0.5 s to rebuild)",
        ),
        (
            rebuilt(RebuildCause.EVICTED_FOR_ROOM, KvEviction(9, 600.0, "", "LRU")),
            "4,096 of 20,480 tokens rebuilt: evicted 10 min ago for another session's growth (LRU)",
        ),
        (
            rebuilt(RebuildCause.EVICTED_FOR_ROOM, KvEviction(9, 600.0, rebuild_seconds=130.0)),
            "4,096 of 20,480 tokens rebuilt: evicted 10 min ago for another session's growth (2 min to rebuild)",
        ),
        (
            rebuilt(RebuildCause.EVICTED_FOR_ROOM, KvEviction(9, 600.0, rebuild_seconds=0.04)),
            "4,096 of 20,480 tokens rebuilt: evicted 10 min ago for another session's growth",
        ),
        (
            rebuilt(RebuildCause.EVICTED_ON_REQUEST, KvEviction(9, 7300.0, requested=True)),
            "4,096 of 20,480 tokens rebuilt: evicted on request 2 h ago",
        ),
        (rebuilt(RebuildCause.EVICTED_ON_REQUEST), "4,096 of 20,480 tokens rebuilt: evicted on request"),
        (rebuilt(RebuildCause.MODEL_CHANGED, ROOM), "4,096 of 20,480 tokens rebuilt: the model changed"),
        (rebuilt(None), "4,096 of 20,480 tokens rebuilt"),
        (
            Why(Wait(15.0, 1, 2, WaitReason.NO_ROOM), "w2", Place.HOME_FULL, 10, 0, 9, RebuildCause.MOVED),
            "waited 15 s behind 1 continuation and 2 new sessions: no worker had room; ran at w2, since its home was "
            "full; 9 of 10 tokens rebuilt: not cached at the worker that it moved to",
        ),
        (
            Why(Wait(0.04, reason=WaitReason.NO_WORKER), "w1", Place.NO_HOME),
            "waited 0.0 s: no worker took steps; the session's first step",
        ),
        (Why(Wait(300.0), "w1"), "waited 5 min; the session's first step"),
    ],
)
def test_the_line(why: Why, line: str) -> None:
    assert why.line == line


def test_every_fact_has_words_of_its_own() -> None:
    waits = [Why(Wait(1.0, 1, 1, reason)) for reason in WaitReason]
    places = [Why(worker="w", place=place) for place in Place if place not in (Place.NO_HOME, Place.HOME)]
    causes = [rebuilt(cause, ROOM) for cause in RebuildCause]
    lines = [why.line for why in (*waits, *places, *causes)]
    assert len(set(lines)) == len(lines)
    assert all(line.isascii() and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("facts", "wire", "prefix"),
    [
        (WaitReason, pb.WaitReason, "WAIT_REASON"),
        (Place, pb.StepPlace, "STEP_PLACE"),
        (RebuildCause, pb.RebuildCause, "REBUILD_CAUSE"),
    ],
)
def test_facts_have_the_same_names_on_the_wire(facts: type[StrEnum], wire: Any, prefix: str) -> None:
    assert [f"{prefix}_UNSPECIFIED", *(f"{prefix}_{name}" for name in facts.__members__)] == wire.keys()
