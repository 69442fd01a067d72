"""What a worker remembers of the KV that it dropped: bounded, and no longer than until the KV is rebuilt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.why import KvEviction
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import Evicted
from roost_worker.engine.policies import DEFAULT_POLICY
from roost_worker.server.evictions import EvictionMemory
from worker_harness import Ledger, World

SESSIONS = st.sampled_from("abcdef")
OPERATIONS = st.one_of(
    st.tuples(st.just("room"), SESSIONS, st.integers(1, 100), SESSIONS | st.just("")),
    st.tuples(st.just("request"), SESSIONS, st.integers(0, 100), st.just("")),
    st.tuples(st.just("forget"), SESSIONS, st.just(0), st.just("")),
)


@given(st.lists(OPERATIONS, max_size=60), st.integers(1, 4))
def test_it_remembers_the_latest_evictions_and_no_more_than_its_bound(
    operations: list[tuple[str, str, int, str]], most: int
) -> None:
    memory, expected = EvictionMemory("P", most=most), dict[str, KvEviction]()
    for now, (kind, session, tokens, other) in enumerate(operations):
        if kind == "room":
            memory.made_room(Evicted(session, tokens, other), now, prefill_rate=now / 2)
            before = expected.pop(session, KvEviction(0, 0.0))
            seconds = before.rebuild_seconds + (2 * tokens / now if now else 0.0)
            expected[session] = KvEviction(before.tokens + tokens, now, other, "P", rebuild_seconds=seconds)
        elif kind == "forget":
            memory.forget(session)
            expected.pop(session, None)
        else:
            memory.requested(session, tokens, now)
            if tokens:
                expected.pop(session, None)
                expected[session] = KvEviction(tokens, now, requested=True)
        expected = dict(list(expected.items())[-most:])
        assert len(memory) == len(expected) <= most
    end = len(operations)
    for session in "abcdef":
        eviction, recalled = expected.get(session), memory.recall(session, end)
        assert (eviction is None) == (recalled is None)
        if eviction is not None and recalled is not None:
            assert recalled.seconds_ago == end - eviction.seconds_ago
            assert (recalled.tokens, recalled.for_session) == (eviction.tokens, eviction.for_session)
            assert (recalled.policy, recalled.requested) == (eviction.policy, eviction.requested)
            assert recalled.rebuild_seconds == eviction.rebuild_seconds


async def evict(world: World, ledger: Ledger, *, erased: bool = False) -> None:
    ledger.epoch += 1
    await world.call("Evict", pb.EvictRequest(session_id=ledger.session_id, epoch=ledger.epoch, erased=erased))


async def rebuild(world: World, ledger: Ledger) -> tuple[pb.Accepted, pb.Finished]:
    """A step for which the worker needs the log, which it does not have."""
    stream = await world.begin(ledger)
    await stream.until("need_history")
    await stream.send(history=ledger.history(0))
    await stream.until("finished")
    await world.commit(ledger, stream)
    assert stream.accepted is not None
    assert stream.finished is not None
    return stream.accepted, stream.finished


async def test_a_step_reports_what_was_dropped_until_it_is_rebuilt(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    first = await world.step(ledger)
    assert first.accepted is not None
    assert first.accepted.block_tokens == world.runner.info.block_tokens
    assert not first.accepted.HasField("eviction")
    tokens = (await world.state()).sessions[0].cached_tokens
    await evict(world, ledger)
    for message in await rebuild(world, ledger):
        assert (message.eviction.tokens, message.eviction.requested) == (tokens, True)
    again = await world.step(ledger)
    assert again.finished is not None
    assert not again.finished.HasField("eviction")


async def test_growth_is_reported_with_the_policy(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    world.server.shell.evictions.made_room(Evicted(ledger.session_id, 7, "a/b/other"), 0.0, prefill_rate=14.0)
    finished = (await world.step(ledger)).finished
    assert finished is not None
    eviction = finished.eviction
    assert (eviction.tokens, eviction.for_session, eviction.policy) == (7, "a/b/other", DEFAULT_POLICY)
    assert eviction.rebuild_seconds == 0.5
    assert eviction.milliseconds_ago > 0


async def test_a_gateway_can_ask_what_is_remembered(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    request = pb.RecallEvictionRequest(session_id=ledger.session_id)
    assert not (await world.call("RecallEviction", request)).HasField("eviction")
    world.server.shell.evictions.made_room(Evicted(ledger.session_id, 7, "a/b/other"), 0.0, prefill_rate=14.0)
    for _ in range(2):
        eviction = (await world.call("RecallEviction", request)).eviction
        assert (eviction.tokens, eviction.for_session) == (7, "a/b/other")


@pytest.mark.parametrize("erased", [False, True])
async def test_nothing_is_remembered_of_an_erased_session(world: World, erased: bool) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    await evict(world, ledger, erased=erased)
    assert len(world.server.shell.evictions) == (not erased)


async def test_a_step_that_never_ran_leaves_the_memory_as_it_was(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    await evict(world, ledger)
    world.runner.grammar_refusal = "no such grammar"
    stream = await world.begin(ledger, format=api.Format(json_schema="{}"))
    await stream.until("need_history")
    await stream.send(history=ledger.history(0))
    await stream.fail()
    assert len(world.server.shell.evictions) == 1
