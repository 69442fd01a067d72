"""Why steps are slow, as they go through a real worker with little room. Gateway, worker, engine and Redis are real,
the model is a script."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redis_servers import RedisServer
from roost.contract.why import KvEviction, Place, RebuildCause
from roost.wire_why import why_from_wire
from roost_gateway.fleet import grace
from roost_worker.engine.policies import DEFAULT_POLICY
from small_worker import Small, small_worker


@pytest.fixture
async def small(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Small]:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    async with small_worker(redis_server, tmp_path) as small:
        yield small


async def test_a_session_evicted_for_the_growth_of_another_is_told_so(small: Small) -> None:
    session, growing = await small.open("ours"), await small.open("ours")
    first = await small.step("ours", session)
    assert first.line == "the session's first step"
    await small.step("ours", growing)
    kept = await small.step("ours", growing, "more")
    assert (kept.rebuilt_tokens, kept.cause, kept.place) == (0, None, Place.HOME)

    why = await small.step("ours", session, "go on")

    assert why.cause is RebuildCause.EVICTED_FOR_ROOM
    assert why.eviction is not None
    assert (why.eviction.for_session, why.eviction.policy) == (growing.id, DEFAULT_POLICY)
    assert why.cached_tokens + why.rebuilt_tokens == why.log_tokens - 1
    assert why.rebuilt_tokens <= why.eviction.tokens
    assert why.eviction.rebuild_seconds > 0.0
    assert re.fullmatch(
        rf"{why.rebuilt_tokens} of {why.log_tokens} tokens rebuilt: evicted \d+\.\d s ago for session {growing.id}'s "
        rf"growth \({DEFAULT_POLICY}(, \d+\.\d s to rebuild)?\)",  # no words for less than a tenth of a second
        why.line,
    )


async def test_the_session_of_another_tenant_is_not_named(small: Small) -> None:
    session, growing = await small.open("ours"), await small.open("theirs")
    await small.step("ours", session)
    await small.step("theirs", growing)
    await small.step("theirs", growing, "more")
    why = await small.step("ours", session, "go on")
    assert why.cause is RebuildCause.EVICTED_FOR_ROOM
    assert why.eviction is not None
    assert why.eviction.for_session == ""
    assert "for another session's growth" in why.line
    (*_, stored) = await small.steps_elsewhere(session)
    assert growing.id.encode() not in stored.SerializeToString()


async def test_what_was_evicted_on_request_says_when(small: Small) -> None:
    session = await small.open("ours")
    await small.step("ours", session)
    await small.evict("ours", session)
    why = await small.step("ours", session, "go on")
    assert (why.cause, why.place) == (RebuildCause.EVICTED_ON_REQUEST, Place.NO_HOME)
    assert isinstance(why.eviction, KvEviction)
    assert why.eviction.requested
    assert re.search(r"tokens rebuilt: evicted on request \d+\.\d s ago$", why.line)


async def test_a_fork_computes_less_than_a_block_again(small: Small) -> None:
    session = await small.open("ours")
    await small.step("ours", session)
    why = await small.step("ours", await small.fork("ours", session), "go on")
    assert (why.place, why.cause) == (Place.HOME, RebuildCause.BLOCK_END)
    assert 0 < why.rebuilt_tokens < small.worker.runner.info.block_tokens


async def test_every_gateway_reads_why_later_and_old_entries_say_nothing(small: Small) -> None:
    session = await small.open("ours")
    lines = [await small.step("ours", session), await small.step("ours", session, "go on")]
    assert [why_from_wire(step.why) for step in await small.steps_elsewhere(session)] == lines
    assert [step.index for step in await small.steps_elsewhere(session, first_index=1)] == [1]
