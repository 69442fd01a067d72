"""Which lines a release wakes, and what a waiting step asks of the store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from leases import lease_of
from roost.contract.heads import Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.messages import Message, MessageRole, Sampling
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepRequest
from roost.store.wake import Wake
from roost.store.worker_views import WorkerView
from roost_gateway.admission.estimate import SessionFacts
from roost_gateway.step.attempt import Failure
from step_attempts import attempt_of, descriptor_of
from waiting_steps import CAPACITY, POOL, Lines


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    lines = Lines()
    await lines.fleet.read(0)
    yield lines
    await lines.aclose()


async def test_a_release_wakes_only_those_whom_that_worker_can_serve(lines: Lines) -> None:
    for name, revision in (("a", "rev-1"), ("b", "rev-2"), ("c", "rev-2")):
        await lines.wait(name, revision)
    lines.ledger.asked.clear()
    lines.ledger.end_a_step("rev-2", held=800)
    await lines.settle()
    assert lines.placed == ["b"]
    assert [session for session, _ in lines.ledger.asked] == ["b", "c"]


async def test_a_step_that_any_worker_can_serve_is_woken_by_each(lines: Lines) -> None:
    await lines.wait("any", "")
    lines.ledger.end_a_step("rev-1", held=0)
    await lines.settle()
    assert lines.placed == ["any"]


async def test_a_step_that_has_its_place_does_not_ask_again_while_nobody_has_room(lines: Lines) -> None:
    await lines.wait("a", "rev-1")
    lines.ledger.asked.clear()
    for _ in range(3):
        lines.placement.kick(POOL)
        await lines.settle()
    assert lines.ledger.asked == []


async def test_a_place_that_the_first_of_a_line_gives_up_wakes_that_line(lines: Lines) -> None:
    await lines.wait("a", "rev-1")
    view = lines.ledger.views["rev-1"]
    lines.ledger.views["rev-1"] = replace(view, reserved_tokens=0, reserved_attempts=0)
    await lines.fleet.workers.refresh(POOL)
    lines.ledger.wakes_sent.put_nowait(Wake(line="rev-2"))
    await lines.settle()
    assert lines.placed == []
    lines.ledger.wakes_sent.put_nowait(Wake(line="rev-1"))
    await lines.settle()
    assert lines.placed == ["a"]


@pytest.mark.parametrize("cached", [0, 60])
async def test_a_waiting_step_learns_what_its_worker_has_dropped(lines: Lines, cached: int) -> None:
    lines.ledger.cached = cached
    attempt = await lines.wait("a", "rev-1", cached={"rev-1": 100})
    assert attempt.need.cached == {"rev-1": cached}


async def test_who_is_first_no_longer_gives_its_place_up_once_the_store_is_back(lines: Lines) -> None:
    new = await lines.wait("new", "rev-1", new_session=True)
    assert new.registered
    lines.ledger.asked.clear()
    lines.ledger.away = True
    await lines.wait("continuation", "rev-1")
    assert new.registered
    assert lines.ledger.asked == [], "nobody else of the line asks while it has its place"
    lines.ledger.away = False
    lines.placement.kick(POOL)
    await lines.settle()
    assert lines.ledger.released == ["new"]
    assert not new.registered
    assert lines.ledger.asked == [("continuation", "rev-1")]


async def test_the_next_of_a_line_asks_when_its_first_leaves(lines: Lines) -> None:
    await lines.wait("first", "rev-1")
    await lines.wait("second", "rev-1")
    lines.ledger.asked.clear()
    lines.tasks[0].cancel()
    await lines.settle()
    assert lines.ledger.asked == [("second", "rev-1")]


async def test_a_step_that_avoids_every_worker_lets_others_go_first_until_there_is_another(lines: Lines) -> None:
    avoiding = await lines.wait("avoiding", "rev-1")
    avoiding.failed_at("rev-1", Failure.BUSY, is_fault=False)
    await lines.wait("behind", "rev-1")
    lines.ledger.end_a_step("rev-1", held=CAPACITY - 200)
    await lines.settle()
    assert lines.placed == ["behind"]
    lease = lease_of("other", model_revision="rev-1", capacity_tokens=CAPACITY)
    lines.ledger.views["other"] = WorkerView(lease, 9000, 0, 0)
    await lines.fleet.workers.refresh(POOL)
    lines.placement.kick(POOL)
    await lines.settle()
    assert lines.placed == ["behind", "avoiding"]


async def test_a_waiting_step_that_has_failed_on_every_living_worker_is_refused(lines: Lines) -> None:
    failed = await lines.wait("failed", "rev-1")
    failed.failed_at("rev-1", Failure.FAULTY, is_fault=True)
    await lines.wait("behind", "rev-1")
    lines.placement.kick(POOL)
    await lines.settle()
    error = lines.tasks[0].exception()
    assert isinstance(error, Refused)
    assert error.reason is Reason.WORKER_FAILED
    assert error.retry_seconds is not None
    assert 0 < error.retry_seconds <= LEASE_TTL_SECONDS
    assert [sum(count for count, _ in lines.placement.waiting()), lines.placed] == [1, []]


async def test_a_step_that_failed_on_every_worker_waits_when_none_of_them_lives(lines: Lines) -> None:
    """As while a pool starts: another may come."""
    failed = await lines.wait("failed", "rev-2")
    failed.failed_at("rev-2", Failure.FAULTY, is_fault=True)
    del lines.ledger.views["rev-2"]
    await lines.fleet.workers.refresh(POOL)
    lines.placement.kick(POOL)
    await lines.settle()
    assert not lines.tasks[0].done()
    lease = lease_of("other", model_revision="rev-2", capacity_tokens=CAPACITY)
    lines.ledger.views["other"] = WorkerView(lease, 9000, 0, 0)
    await lines.fleet.workers.refresh(POOL)
    lines.placement.kick(POOL)
    await lines.settle()
    assert lines.placed == ["failed"]


async def test_a_step_that_failed_on_a_worker_waits_for_another_that_is_only_marked_broken(lines: Lines) -> None:
    lease = lease_of("other", model_revision="rev-1", capacity_tokens=CAPACITY)
    lines.ledger.views["other"] = WorkerView(lease, 9000, CAPACITY, 1)
    await lines.fleet.workers.refresh(POOL)
    failed = await lines.wait("failed", "rev-1")
    other = lines.fleet.workers.get(POOL, "other")
    assert other is not None
    lines.fleet.workers.mark_broken(other)
    failed.failed_at("rev-1", Failure.FAULTY, is_fault=True)
    lines.placement.kick(POOL)
    await lines.settle()
    assert not lines.tasks[0].done()
    del lines.ledger.views["other"]
    await lines.fleet.workers.refresh(POOL)
    lines.placement.kick(POOL)
    await lines.settle()
    assert isinstance(lines.tasks[0].exception(), Refused), "it has died: the only one left has failed"


@pytest.mark.parametrize("part", ["choose", "reserve"])
async def test_an_unexpected_error_ends_the_wait_of_its_own_step_alone(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    for name in ("broken", "sound"):
        await lines.wait(name, "rev-1")
    owner: Any = lines.fleet.workers if part == "choose" else lines.ledger
    sound = getattr(owner, part)

    def broken(*arguments: Any) -> Any:
        need = arguments[1] if part == "choose" else arguments[0]
        if need.session_id == "broken":
            raise ZeroDivisionError
        return sound(*arguments)

    monkeypatch.setattr(owner, part, broken)
    lines.ledger.end_a_step("rev-1", held=0)
    await lines.settle()
    assert isinstance(lines.tasks[0].exception(), ZeroDivisionError)
    assert lines.placed == ["sound"]


async def test_an_unexpected_error_of_a_whole_line_ends_every_wait_in_it(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, revision in (("a", "rev-1"), ("b", "rev-1"), ("other", "rev-2")):
        await lines.wait(name, revision)
    monkeypatch.setattr(lines.placement, "_withdraw_others", _broken)
    lines.placement.kick(POOL, "rev-1")
    await lines.settle()
    assert [isinstance(task.exception(), ZeroDivisionError) for task in lines.tasks[:2]] == [True, True]
    assert not lines.tasks[2].done()


def _broken(*_: object) -> None:
    raise ZeroDivisionError


FRESH, CONTINUED = SessionFacts("", 0), SessionFacts("", 0, continues=True)


@pytest.mark.parametrize(
    ("facts", "head", "worker"),
    [
        (FRESH, None, "rev-2"),
        (FRESH, Head(), "rev-2"),
        (FRESH, Head(100, b"h" * 16), ""),  # another gateway has committed its steps
        (CONTINUED, None, ""),
    ],
)
async def test_begin_reserves_only_for_a_session_that_is_not_known_to_have_a_log(
    lines: Lines, facts: SessionFacts, head: Head | None, worker: str
) -> None:
    lines.ledger.end_a_step("rev-2", held=0)
    await lines.fleet.workers.refresh(POOL)
    pool = lines.fleet.pools.known(POOL)
    assert pool is not None
    request = StepRequest("s", "s1", (Message(MessageRole.USER, "hello"),), Sampling(max_tokens=10), expected_head=head)
    call = attempt_of(pool, descriptor_of("s"), request=request, facts=facts).call
    assert lines.placement.first_worker(call) == worker
    state = lines.fleet.workers.get(POOL, "rev-2")
    assert state is not None
    assert bool(state.reserved_tokens) == bool(worker)
