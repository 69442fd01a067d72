"""The line of the steps that the gate holds."""

from dataclasses import replace
from typing import Any

import pytest

from roost.contract.heads import AttemptRef
from roost.contract.refused import Refused
from roost.store.entry import Reserved
from roost.store.records import Began, Reservation
from roost.store.working_set import Admission
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.lines import PoolQueue
from step_attempts import attempt_of, descriptor_of, with_need
from waiting_steps import POOL, Ledger, Lines


class Gate(Ledger):
    """It holds the first step that asks, and then has no room for it until it has been held for long enough."""

    async def reserve(self, reservation: Reservation) -> Reserved:
        self.asked.append((reservation.session_id, reservation.worker_id))
        if reservation.entry.admission is Admission.PASSED:
            return Reserved(granted=True)
        return Reserved(granted=False, held=len(self.asked) == 1)


class OpenGate(Ledger):
    """It holds the first step that asks, until it asks again."""

    async def reserve(self, reservation: Reservation) -> Reserved:
        self.asked.append((reservation.session_id, reservation.worker_id))
        return Reserved(granted=False, held=True) if len(self.asked) == 1 else Reserved(granted=True)


@pytest.fixture
async def lines() -> Lines:
    lines = Lines()
    await lines.fleet.read(0)
    return lines


def gated(lines: Lines, **pool: Any) -> StepAttempt:
    """An attempt of the calling task, of a pool with a gate that is closed to it."""
    document = lines.fleet.pools.known(POOL)
    assert document is not None
    session = descriptor_of("held")
    began = Began(AttemptRef(1, b"n" * 16), 1, session, "", None, 0, gated=True)
    return with_need(attempt_of(replace(document, has_gate=True, **pool), session, began=began), model_revision="rev-1")


async def test_a_step_that_was_held_for_long_is_let_in_also_when_room_is_short_in_the_end() -> None:
    lines = Lines(Gate())
    await lines.fleet.read(0)
    lines.ledger.end_a_step("rev-1", 0)  # so that the step asks again as soon as it waits, and is not held then
    worker = await lines.placement.place(gated(lines, queue_timeout_seconds=0, max_hold_seconds=0.2))
    assert worker.worker_id == "rev-1"
    await lines.placement.aclose()


async def test_no_full_queue_refuses_a_step_that_has_passed_the_gate(lines: Lines) -> None:
    attempt, waiting = gated(lines, queue_limit=1), PoolQueue(POOL)
    waiting.enter(gated(lines), waiting.line(attempt.line))
    with pytest.raises(Refused, match="wait already"):
        waiting.enter(attempt, waiting.line(attempt.line))
    attempt.passes_gate()
    waiting.enter(attempt, waiting.line(attempt.line))


async def test_a_step_that_was_let_in_need_not_pass_the_gate_again(lines: Lines) -> None:
    attempt = gated(lines)
    assert attempt.reservation("rev-1", 100).entry.admission is Admission.GATED
    attempt.asked(granted=True)
    assert attempt.reservation("rev-2", 100).entry.admission is Admission.PASSED


async def test_a_held_step_that_is_let_in_asks_no_more() -> None:
    lines = Lines(OpenGate())
    await lines.fleet.read(0)
    lines.ledger.end_a_step("rev-1", 0)
    attempt = gated(lines, max_hold_seconds=60)
    worker = await lines.placement.place(attempt)
    assert lines.ledger.asked == [("held", worker.worker_id)] * 2
    await lines.placement.aclose()
