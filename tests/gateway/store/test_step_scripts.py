"""Begin, commit, abort and renew: one attempt at a time, each step once, whatever is sent twice."""

import dataclasses

import pytest

from refused_calls import refused
from roost.contract import loghash
from roost.contract.heads import AttemptRef, Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.keys import PoolKeys
from roost.store.records import AlreadyCommitted, Began, RenewItem
from store_driver import (
    LONG_MS,
    POOL,
    REVISION,
    TENANT,
    begin_grace,
    begin_request,
    commit_request,
    commit_step,
    digest,
    new_session,
    redis_ms,
    reservation,
)

KEYS = PoolKeys(POOL)


async def why(call) -> Reason:
    return (await refused(call)).reason


async def expire(store, session_id: str, ref: AttemptRef) -> None:
    """As if the attempt's gateway had not renewed it in time."""
    assert await store.renew(POOL, [RenewItem(session_id, ref)], 0) == [True]


async def test_begin_takes_an_attempt_with_a_new_epoch(store, session_id):
    request = begin_request(session_id, seed=2**64 - 1, lease_ms=5_000)
    began = await store.begin(request)
    assert isinstance(began, Began)
    assert (began.ref, began.seed, began.fenced) == (AttemptRef(1, request.nonce), 2**64 - 1, None)
    live = (await store.get(session_id, TENANT)).attempt
    assert (live.ref, live.step_id, live.seed, live.worker_id) == (began.ref, "step-1", began.seed, "")
    assert 0 < live.lease_ms_left <= 5_000


async def test_a_begin_that_is_sent_again_returns_the_same_attempt(store, session_id):
    await store.begin(begin_request(session_id))
    request = begin_request(session_id)
    first, again = await store.begin(request), await store.begin(request)
    assert (again.ref, again.seed, again.reserved) == (first.ref, first.seed, first.reserved)
    assert again.fenced.ref == first.fenced.ref
    assert again.descriptor.epoch == 2


async def test_a_retry_fences_at_once_and_keeps_the_seed(store, other, session_id):
    first = await store.begin(begin_request(session_id, seed=11))
    second = await other.begin(begin_request(session_id, seed=22))
    assert second.ref.epoch == first.ref.epoch + 1
    assert second.seed == 11
    assert (second.fenced.ref, second.fenced.step_id, second.fenced.seed) == (first.ref, "step-1", 11)
    assert await why(store.commit(commit_request(session_id, first.ref, "step-1"))) is Reason.ATTEMPT_FENCED
    assert (await other.commit(commit_request(session_id, second.ref, "step-1"))).step_id == "step-1"


async def test_another_step_is_busy_until_the_lease_runs_out(store, other, session_id):
    first = await store.begin(begin_request(session_id, lease_ms=LONG_MS))
    error = await refused(other.begin(begin_request(session_id, "step-2")))
    assert error.reason is Reason.ANOTHER_STEP_RUNNING
    assert 1.0 < error.retry_seconds <= LONG_MS / 1000
    await expire(store, session_id, first.ref)
    second = await other.begin(begin_request(session_id, "step-2"))
    assert second.fenced is None
    assert await why(store.commit(commit_request(session_id, first.ref, "step-1"))) is Reason.ATTEMPT_FENCED


async def test_in_grace_an_attempt_of_another_step_has_not_expired(store, raw, session_id):
    first = await store.begin(begin_request(session_id, lease_ms=0))
    begin_grace(store)
    error = await refused(store.begin(begin_request(session_id, "step-2")))
    assert error.reason is Reason.ANOTHER_STEP_RUNNING
    assert 1.0 < error.retry_seconds <= LONG_MS / 1000, "what is left of the grace, not the default"
    assert (await store.begin(begin_request(session_id))).fenced.ref == first.ref


async def test_the_expected_head_is_compared(store, session_id):
    head = await commit_step(store, session_id, "step-1")
    shorter, longer = Head(), Head(head.length + 5, bytes(16))
    forked = Head(head.length, bytes(16))
    for expected, reason in (
        (shorter, Reason.HEAD_MISMATCH),
        (longer, Reason.SESSION_ROLLED_BACK),
        (forked, Reason.SESSION_ROLLED_BACK),
    ):
        error = await refused(store.begin(begin_request(session_id, "step-2", expected_head=expected)))
        assert (error.reason, Head.from_metadata(error.metadata)) == (reason, head)
    assert isinstance(await store.begin(begin_request(session_id, "step-2", expected_head=head)), Began)


async def test_limits_are_kept(store, session_id):
    await commit_step(store, session_id, "step-1")  # 5 tokens
    for limits, reason in (
        ({"budget_tokens": 14}, Reason.BUDGET_EXHAUSTED),
        ({"max_steps": 1}, Reason.STEP_LIMIT_REACHED),
        ({"max_session_tokens": 14}, Reason.STEP_TOO_LONG),
    ):
        error = await refused(store.begin(begin_request(session_id, "step-2", new_tokens=10, **limits)))
        assert error.reason is reason
        assert str(next(iter(limits.values()))) in str(error), "the refusal names the limit"
    just = {"budget_tokens": 15, "max_steps": 2, "max_session_tokens": 15}
    assert isinstance(await store.begin(begin_request(session_id, "step-2", new_tokens=10, **just)), Began)


async def test_a_step_in_quarantine_is_refused_whatever_its_id_and_says_for_how_long(store, other, session_id):
    request = begin_request(session_id)
    first = await store.begin(request)
    await store.quarantine(session_id, request.digest, LONG_MS)
    for step_id in ("step-1", "step-2"):
        await store.abort(session_id, first.ref)
        error = await refused(other.begin(begin_request(session_id, step_id, digest=request.digest)))
        assert error.reason is Reason.STEP_KILLED_WORKERS
        assert LONG_MS / 2000 < error.retry_seconds <= LONG_MS / 1000
    assert isinstance(await other.begin(begin_request(session_id, "step-3")), Began)
    neighbour = (await store.open(new_session())).session_id
    assert isinstance(await other.begin(begin_request(neighbour, digest=request.digest)), Began)


async def test_a_quarantine_ends_by_itself(store, session_id):
    request = begin_request(session_id)
    await store.quarantine(session_id, request.digest, LONG_MS)
    await store.quarantine(session_id, request.digest, 1)

    async def outcome() -> Began | Reason:
        try:
            return await store.begin(request)
        except Refused as error:
            return error.reason

    while (began := await outcome()) is Reason.STEP_KILLED_WORKERS:
        pass
    assert isinstance(began, Began)


async def test_a_quarantine_holds_up_neither_a_resent_begin_nor_a_committed_step(store, session_id):
    request = begin_request(session_id)
    began = await store.begin(request)
    await store.quarantine(session_id, request.digest, LONG_MS)
    assert (await store.begin(request)).ref == began.ref
    await store.commit(commit_request(session_id, began.ref, "step-1"))
    assert isinstance(await store.begin(request), AlreadyCommitted)


async def test_a_step_id_with_other_content_is_refused(store, session_id):
    await store.begin(begin_request(session_id))
    other_content = begin_request(session_id, digest=digest("other"))
    assert await why(store.begin(other_content)) is Reason.STEP_ID_REUSED
    began = await store.begin(begin_request(session_id))
    await store.commit(commit_request(session_id, began.ref, "step-1"))
    assert await why(store.begin(other_content)) is Reason.STEP_ID_REUSED


async def test_a_committed_step_returns_its_stored_result(store, other, session_id):
    await commit_step(store, session_id, "step-1", prompt=(1, 2), output=(3,))
    began = await store.begin(begin_request(session_id, "step-2"))
    request = commit_request(session_id, began.ref, "step-2", began.descriptor.head, prompt=(4, 5), output=(6, 7, 8))
    entry = await store.commit(request)
    await commit_step(store, session_id, "step-3")
    repeated = await other.begin(begin_request(session_id, "step-2", expected_head=Head()))
    assert isinstance(repeated, AlreadyCommitted)
    assert repeated.entry == entry
    assert list(loghash.unpack_ids(repeated.prompt_ids)) == [4, 5]
    assert list(loghash.unpack_ids(repeated.output_ids)) == [6, 7, 8]
    assert repeated.descriptor.steps == 3


async def test_a_commit_moves_the_head_and_counts_the_costs(store, session_id):
    began = await store.begin(begin_request(session_id))
    request = commit_request(session_id, began.ref, "step-1", seed=2**64 - 1, owner="w7")
    entry = await store.commit(request)
    assert dataclasses.replace(entry, commit_ms=0) == request.entry
    descriptor = await store.get(session_id, TENANT)
    assert (descriptor.head, descriptor.steps, descriptor.owner) == (request.entry.head, 1, "w7")
    assert (descriptor.attempt, descriptor.model_revision, descriptor.updated_ms) == (None, REVISION, entry.commit_ms)
    counted = (descriptor.prompt_tokens, descriptor.output_tokens)
    assert (*counted, descriptor.cached_tokens, descriptor.reconstructed_tokens) == (3, 2, 1, 2)
    assert await store.log(session_id, 1, 0, 9) == [entry]


async def test_a_commit_that_is_sent_again_returns_the_stored_entry(store, other, session_id):
    began = await store.begin(begin_request(session_id))
    request = commit_request(session_id, began.ref, "step-1")
    entry = await store.commit(request)
    assert await store.commit(request) == entry
    await commit_step(other, session_id, "step-2")
    assert await store.commit(request) == entry
    assert (await store.get(session_id, TENANT)).steps == 2


async def test_a_commit_by_another_attempt_of_a_committed_step_is_fenced(store, other, session_id):
    first = await store.begin(begin_request(session_id))
    second = await other.begin(begin_request(session_id))
    await other.commit(commit_request(session_id, second.ref, "step-1"))
    stale = commit_request(session_id, first.ref, "step-1", output=(9, 9))
    assert await why(store.commit(stale)) is Reason.ATTEMPT_FENCED
    assert list(loghash.unpack_ids(await store.ids(session_id, 1, 3, 5))) == [4, 5]


async def test_a_lease_that_ran_out_does_not_keep_an_attempt_from_committing(store, session_id):
    began = await store.begin(begin_request(session_id))
    await expire(store, session_id, began.ref)
    assert (await store.get(session_id, TENANT)).attempt.lease_ms_left <= 0
    assert await store.renew(POOL, [RenewItem(session_id, began.ref)], LONG_MS) == [True]
    await expire(store, session_id, began.ref)
    assert (await store.commit(commit_request(session_id, began.ref, "step-1"))).index == 0


async def test_the_right_nonce_with_another_epoch_or_step_is_fenced(store, session_id):
    began = await store.begin(begin_request(session_id))
    wrong = AttemptRef(began.ref.epoch + 1, began.ref.nonce)
    assert await why(store.commit(commit_request(session_id, wrong, "step-1"))) is Reason.ATTEMPT_FENCED
    assert await why(store.commit(commit_request(session_id, began.ref, "step-2"))) is Reason.ATTEMPT_FENCED
    assert await why(store.reserve(reservation(dataclasses.replace(began, ref=wrong)))) is Reason.ATTEMPT_FENCED
    assert await store.renew(POOL, [RenewItem(session_id, wrong)], LONG_MS) == [False]
    await store.abort(session_id, wrong)
    assert (await store.get(session_id, TENANT)).attempt is not None


async def test_a_commit_onto_another_head_or_revision_is_refused(store, session_id):
    await commit_step(store, session_id, "step-1")
    began = await store.begin(begin_request(session_id, "step-2"))
    onto = commit_request(session_id, began.ref, "step-2", Head())
    assert await why(store.commit(onto)) is Reason.HEAD_MISMATCH
    ahead = commit_request(session_id, began.ref, "step-2", Head(99, bytes(16)))
    assert await why(store.commit(ahead)) is Reason.SESSION_ROLLED_BACK
    revised = commit_request(session_id, began.ref, "step-2", began.descriptor.head, model_revision="rev-2")
    assert await why(store.commit(revised)) is Reason.MODEL_REVISION_MISMATCH
    assert (await store.get(session_id, TENANT)).steps == 1


async def test_a_commit_that_contradicts_itself_never_reaches_redis(store, session_id):
    began = await store.begin(begin_request(session_id))
    good = commit_request(session_id, began.ref, "step-1")
    for bad in (
        dataclasses.replace(good, packed_ids=good.packed_ids[:-1]),
        dataclasses.replace(good, packed_ids=good.packed_ids[4:]),
        dataclasses.replace(good, entry=dataclasses.replace(good.entry, head=Head(5, bytes(16)))),
        dataclasses.replace(good, entry=dataclasses.replace(good.entry, prompt_tokens=4)),
    ):
        with pytest.raises(ValueError, match="step-1"):
            await store.commit(bad)
    assert (await store.get(session_id, TENANT)).steps == 0


async def test_an_aborted_attempt_frees_the_session_and_cannot_commit(store, session_id):
    began = await store.begin(begin_request(session_id))
    await store.abort(session_id, began.ref)
    await store.abort(session_id, began.ref)
    assert (await store.get(session_id, TENANT)).attempt is None
    assert await why(store.commit(commit_request(session_id, began.ref, "step-1"))) is Reason.ATTEMPT_FENCED
    assert (await store.begin(begin_request(session_id, "step-2"))).ref.epoch == began.ref.epoch + 1


async def test_an_abort_of_a_session_that_is_gone_does_nothing(store, session_id):
    await store.delete(session_id, TENANT)
    await store.abort(session_id, AttemptRef(1, bytes(16)))


async def test_one_batch_renews_the_live_and_names_the_others(store, other):
    sessions = [(await store.open(new_session())).session_id for _ in range(4)]
    refs = [(await store.begin(begin_request(session_id))).ref for session_id in sessions]
    await other.begin(begin_request(sessions[1]))
    await store.abort(sessions[2], refs[2])
    items = [RenewItem(session_id, ref) for session_id, ref in zip(sessions, refs, strict=True)]
    assert await store.renew(POOL, items * 100, LONG_MS) == [True, False, False, True] * 100
    assert await store.renew(POOL, [], LONG_MS) == []


async def test_renewing_keeps_a_session_that_would_expire_during_its_step(store, raw):
    session_id = (await store.open(new_session(ttl_ms=60_000))).session_id
    began = await store.begin(begin_request(session_id, lease_ms=5_000))
    assert raw.pttl(KEYS.session(session_id)) > 60_000
    raw.pexpire(KEYS.session(session_id), 1_000)  # as if the step had run for long
    raw.hset(KEYS.session(session_id), "expires", redis_ms(raw) + 1_000)
    await store.renew(POOL, [RenewItem(session_id, began.ref)], 5_000)
    assert raw.pttl(KEYS.session(session_id)) > 60_000
    await store.abort(session_id, began.ref)
    assert raw.pttl(KEYS.session(session_id)) <= 60_000


@pytest.mark.parametrize("lost", ["log", "ids"])
async def test_a_log_that_redis_lost_is_noticed(store, raw, session_id, lost, caplog):
    head = await commit_step(store, session_id, "step-1")
    began = await store.begin(begin_request(session_id, "step-2"))
    raw.delete(getattr(KEYS, lost)(session_id, 1))
    for call in (
        store.begin(begin_request(session_id, "step-2")),
        store.commit(commit_request(session_id, began.ref, "step-2", head)),
    ):
        caplog.clear()
        error = await refused(call)
        assert error.reason is Reason.SESSION_ROLLED_BACK
        assert "Redis" not in str(error)
        assert "noeviction" in caplog.text


async def test_a_session_with_several_generations_is_found_without_being_told(store, other, raw, session_id):
    """Folding comes later; the record, its keys and its expiry are ready for it."""
    head = await commit_step(store, session_id, "step-1", ttl_ms=60_000)
    empty = {"generation": 2, "length": 0, "hash": "", "steps": 0, "revision": "rev-2"}
    raw.hset(KEYS.session(session_id), mapping=empty)
    began = await other.begin(begin_request(session_id, "step-2", expected_head=Head()))
    items = [RenewItem(session_id, began.ref)]
    assert await store.renew(POOL, items, 5_000) == [True]
    request = commit_request(session_id, began.ref, "step-2", model_revision="rev-2", ttl_ms=90_000)
    entry = await store.commit(request)
    assert (await store.log(session_id, 2, 0, 9), entry.index) == ([entry], 0)
    assert (await store.log(session_id, 1, 0, 9))[0].head == head
    assert (await store.begin(begin_request(session_id, "step-1"))).entry.step_id == "step-1"
    for key in (KEYS.log(session_id, 1), KEYS.ids(session_id, 1), KEYS.log(session_id, 2), KEYS.ids(session_id, 2)):
        assert raw.pttl(key) > 60_000
    await other.delete(session_id, TENANT)
    assert set(raw.scan_iter("*:s:*")) == {KEYS.session(session_id).encode()}
