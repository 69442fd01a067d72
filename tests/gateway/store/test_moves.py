"""Moves of sessions between workers: one gateway at a time, and never under a step."""

from dataclasses import replace
from typing import Any

import pytest

from redis_servers import RedisCluster, RedisServer
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.entry import Entry
from roost.store.holds import HoldRecord
from roost.store.interface import SessionStore
from roost.store.memory import MemoryStore
from roost.store.moves import Move
from roost.store.records import Began
from roost.store.working_set import Admission
from store_driver import (
    LONG_MS,
    POOL,
    REVISION,
    TENANT,
    begin_request,
    commit_request,
    commit_step,
    lease,
    new_session,
    publish,
    publish_cached,
    reservation,
)

OLD, NEW, GATEWAY = "w1", "w2", "gateway-1"
Server = RedisServer | RedisCluster | MemoryStore


def cache(server: Server, session_id: str, worker: str = OLD) -> None:
    """The worker publishes that it has the session cached."""
    if isinstance(server, MemoryStore):
        server.publish_cached(session_id, worker, 1)
    else:
        with server.client() as raw:
            publish_cached(raw, session_id, worker)


async def committed(store: SessionStore, **fields: Any) -> Move:
    """A session with a step at OLD, and its move to NEW."""
    session_id = (await store.open(new_session(**fields))).session_id
    await commit_step(store, session_id, "step-1", owner=OLD)
    head = (await store.get(session_id, TENANT)).head
    return Move(session_id, GATEWAY, OLD, NEW, head, 1, request=session_id[-8:].encode().hex())


async def why(store: SessionStore, move: Move) -> Reason:
    with pytest.raises(Refused) as caught:
        await store.moves.move(move)
    return caught.value.reason


@pytest.fixture
async def move(store: SessionStore) -> Move:
    move = await committed(store)
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS)
    return move


async def test_one_gateway_at_a_time_moves_a_workers_sessions(store: SessionStore, other: SessionStore) -> None:
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS)
    assert not await other.moves.claim(POOL, OLD, "gateway-2", LONG_MS)
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS), "its own claim is renewed"
    assert await other.moves.claim(POOL, NEW, "gateway-2", LONG_MS), "another worker's sessions are another matter"


async def test_a_claim_runs_out(store: SessionStore) -> None:
    assert await store.moves.claim(POOL, OLD, GATEWAY, 1)
    for _ in range(10_000):
        if await store.moves.claim(POOL, OLD, "gateway-2", LONG_MS):
            return
    raise AssertionError("the claim of a gateway that is gone stays")


async def test_nobody_claims_a_worker_whose_moves_are_done(store: SessionStore) -> None:
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS)
    await store.moves.finish(POOL, OLD, "gateway-2", LONG_MS)
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS), "another gateway cannot say that it is done"
    await store.moves.finish(POOL, OLD, GATEWAY, LONG_MS)
    assert not await store.moves.claim(POOL, OLD, "gateway-2", LONG_MS)


async def test_a_session_gets_another_owner_and_an_epoch_for_the_eviction(store: SessionStore, move: Move) -> None:
    before = await store.get(move.session_id, TENANT)
    epoch = await store.moves.move(move)
    after = await store.get(move.session_id, TENANT)
    assert (after.owner, after.epoch, epoch) == (NEW, before.epoch + 1, before.epoch + 1)
    assert after.head == before.head
    assert await store.moves.move(move) == epoch, "sent again it changes nothing"
    assert (await store.get(move.session_id, TENANT)).epoch == epoch


@pytest.mark.parametrize("lease_ms", [LONG_MS, 0])
async def test_a_session_is_not_moved_under_a_step(store: SessionStore, move: Move, lease_ms: int) -> None:
    """Nor while an attempt whose lease has run out may still be resumed where it ran."""
    await store.begin(begin_request(move.session_id, "step-2", expected_head=move.head, lease_ms=lease_ms))
    assert await why(store, move) is Reason.ANOTHER_STEP_RUNNING


async def test_a_log_that_went_on_is_not_the_one_that_was_computed(store: SessionStore, move: Move) -> None:
    await commit_step(store, move.session_id, "step-2", owner=OLD)
    assert await why(store, move) is Reason.HEAD_MISMATCH
    longer = replace(move, head=Head(10_000, bytes(16)))
    assert await why(store, longer) is Reason.SESSION_ROLLED_BACK


async def test_a_gateway_without_the_claim_moves_nothing(store: SessionStore, move: Move) -> None:
    assert await why(store, replace(move, gateway="gateway-2")) is Reason.ATTEMPT_FENCED


async def test_a_session_that_has_left_is_not_moved(store: SessionStore, move: Move) -> None:
    await commit_step(store, move.session_id, "step-2", owner="w3")
    head = (await store.get(move.session_id, TENANT)).head
    assert await why(store, replace(move, head=head)) is Reason.ATTEMPT_FENCED


async def test_closed_and_deleted_sessions_are_not_moved(store: SessionStore, move: Move) -> None:
    await store.close(move.session_id, TENANT)
    assert await why(store, move) is Reason.SESSION_CLOSED
    await store.delete(move.session_id, TENANT)
    assert await why(store, move) is Reason.SESSION_NOT_FOUND


async def test_residents_are_told_with_what_a_move_takes(store: SessionStore, server: Server) -> None:
    held, busy, closed, gone = [(await committed(store)).session_id for _ in range(4)]
    elsewhere = (await committed(store)).session_id
    for session_id in (held, busy, closed, gone):
        cache(server, session_id)
    cache(server, elsewhere, NEW)
    await store.hold(held, TENANT, "pytest", 30.0, None)
    await store.begin(begin_request(busy, "step-2"))
    await store.close(closed, TENANT)
    await store.delete(gone, TENANT)
    residents = {resident.session_id: resident for resident in await store.moves.residents(POOL, OLD)}
    assert residents.keys() == {held, busy, closed}
    record = await store.get(held, TENANT)
    assert residents[held].hold is not None
    assert replace(residents[held].hold or HoldRecord("", 0, 0), begin_ms=0) == HoldRecord("pytest", 30.0, 0)
    assert (residents[held].owner, residents[held].tenant, residents[held].model_revision) == (OLD, TENANT, REVISION)
    assert (residents[held].log_tokens, residents[held].updated_ms) == (record.head.length, record.updated_ms)
    assert [residents[name].busy for name in (held, busy, closed)] == [False, True, False]
    assert [residents[name].closed for name in (held, busy, closed)] == [False, False, True]
    assert {resident.moved_ms for resident in residents.values()} == {0}
    assert await store.moves.residents(POOL, "nobody") == []


async def test_a_resident_says_when_it_was_moved(store: SessionStore, server: Server, move: Move) -> None:
    before = await store.get(move.session_id, TENANT)
    await store.moves.move(move)
    cache(server, move.session_id, NEW)
    (resident,) = await store.moves.residents(POOL, NEW)
    assert resident.moved_ms >= before.updated_ms > 0
    assert resident.updated_ms == before.updated_ms


async def test_what_a_live_session_needs_goes_along(store: SessionStore, server: Server) -> None:
    """In the working set that admission counts."""
    for worker in (OLD, NEW):
        publish_worker(server, worker)
    move = await committed(store)
    entry = Entry(Admission.GATED)
    began = await store.begin(begin_request(move.session_id, "step-2", expected_head=move.head, entry=entry))
    assert isinstance(began, Began)
    await store.reserve(reservation(began, OLD, entry=entry))
    await store.commit(commit_request(move.session_id, began.ref, "step-2", move.head, owner=OLD))
    head = (await store.get(move.session_id, TENANT)).head
    assert await store.moves.claim(POOL, OLD, GATEWAY, LONG_MS)
    before = {view.lease.worker_id: view.live_tokens for view in await store.workers(POOL)}
    assert before[OLD] > before[NEW] == 0
    await store.moves.move(replace(move, head=head))
    after = {view.lease.worker_id: view.live_tokens for view in await store.workers(POOL)}
    assert after == {OLD: 0, NEW: before[OLD]}


def publish_worker(server: Server, worker: str) -> None:
    if isinstance(server, MemoryStore):
        server.publish(POOL, lease(worker), LONG_MS)
    else:
        with server.client() as raw:
            publish(raw, lease(worker))
