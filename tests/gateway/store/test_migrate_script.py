"""Migrate: a new generation under a live attempt, once, with the old one left to be read."""

from dataclasses import replace
from typing import Any

import pytest

from roost.contract import loghash
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.generations import FormerLog
from roost.store.keys import PoolKeys
from roost.store.records import AlreadyCommitted, Began, Descriptor
from roost.store.redis_store import RedisStore
from store_driver import (
    LONG_MS,
    POOL,
    REVISION,
    TENANT,
    begin_request,
    commit_request,
    lease,
    migrate_request,
    new_session,
    publish,
    publish_cached,
)

KEYS = PoolKeys(POOL)
TTL_MS = 500_000


async def with_steps(store: RedisStore, count: int, of: dict[str, Any] | None = None, **fields: Any) -> str:
    """A session with `count` steps `s0`, `s1`, … of five tokens each; `of` are fields of their entries."""
    session_id = (await store.open(new_session(ttl_ms=TTL_MS, **fields))).session_id
    for number in range(count):
        began = await store.begin(begin_request(session_id, f"s{number}"))
        head = began.descriptor.head
        step = commit_request(session_id, began.ref, f"s{number}", head, ttl_ms=TTL_MS, index=number, **(of or {}))
        await store.commit(step)
    return session_id


async def begun(store: RedisStore, session_id: str, step_id: str = "next", **fields: Any) -> Began:
    began = await store.begin(begin_request(session_id, step_id, **fields))
    assert isinstance(began, Began)
    return began


async def migrate(store: RedisStore, began: Began, **fields: Any) -> Descriptor:
    descriptor = began.descriptor
    entries = await store.log(descriptor.session_id, descriptor.generation, 0, 100)
    return await store.migrate(migrate_request(began, entries, **fields))


async def refused(call: Any) -> Reason:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.reason


async def test_a_migrated_session_goes_on_in_its_new_log(store, other):
    session_id = await with_steps(store, 2)
    began = await begun(store, session_id)
    old = began.descriptor
    new = await migrate(store, began)
    assert (new.generation, new.steps, new.head.length, new.model_revision) == (2, 2, 4, "rev-2")
    assert new.former == FormerLog(old.head, 2, REVISION)
    assert (new.owner, new.attempt.ref, new.prompt_tokens, new.output_tokens) == ("", began.ref, 6, 4)
    committed = await other.commit(
        commit_request(session_id, began.ref, "next", new.head, index=2, model_revision="rev-2")
    )
    after = await store.get(session_id, TENANT)
    assert (after.generation, after.steps, after.head) == (2, 3, committed.head)
    assert [entry.step_id for entry in await store.log(session_id, 2, 0, 9)] == ["s0", "s1", "next"]
    ids = loghash.unpack_ids(await store.ids(session_id, 2, 0, after.head.length))
    assert list(ids) == [900, 800, 901, 800, 1, 2, 3, 4, 5]


async def test_where_thinking_begins_is_known_of_every_log(store, other):
    session_id = (await store.open(new_session())).session_id
    for number, (reasoning, begins) in enumerate([("", None), ("Hm.", 1), ("", 1), ("Hm.", 1)]):
        began = await store.begin(begin_request(session_id, f"s{number}"))
        head = began.descriptor.head
        await other.commit(commit_request(session_id, began.ref, f"s{number}", head, reasoning=reasoning))
        assert (await store.get(session_id, TENANT)).thinking_from == begins
    for without, begins in ((0, 1), (1, 1), (2, 3), (4, None)):
        began = await begun(store, session_id, f"m{without}")
        assert (await migrate(store, began, without_thinking=without)).thinking_from == begins
        await store.abort(session_id, began.ref)
    assert (await other.get(session_id, TENANT)).thinking_from is None


@pytest.mark.parametrize(("revision", "owner"), [(REVISION, "w1"), ("rev-2", "")])
async def test_the_owner_stays_where_the_new_log_begins_as_the_old_one_did(store, revision, owner):
    session_id = await with_steps(store, 1)
    assert (await migrate(store, await begun(store, session_id), revision=revision)).owner == owner


async def test_thinking_that_goes_before_a_step_does_not_count_against_the_logs_length(store):
    session_id = await with_steps(store, 1, of={"reasoning": "Hm."})
    full = {"max_session_tokens": 5, "new_tokens": 1}
    assert await refused(store.begin(begin_request(session_id, **full))) is Reason.STEP_TOO_LONG
    began = await begun(store, session_id, drops_thinking=True, **full)
    await migrate(store, began, without_thinking=1, extra=3)
    await store.abort(session_id, began.ref)
    assert await refused(store.begin(begin_request(session_id, drops_thinking=True, **full))) is Reason.STEP_TOO_LONG


async def test_the_old_log_stays_as_it_was(store):
    session_id = await with_steps(store, 2)
    entries, ids = await store.log(session_id, 1, 0, 9), await store.ids(session_id, 1, 0, 10)
    await migrate(store, await begun(store, session_id))
    assert await store.log(session_id, 1, 0, 9) == entries
    assert await store.ids(session_id, 1, 0, 10) == ids
    new = await store.log(session_id, 2, 0, 9)
    assert [(entry.commit_ms, entry.messages, entry.output) for entry in new] == [
        (entry.commit_ms, entry.messages, entry.output) for entry in entries
    ]


async def test_a_migration_that_is_sent_again_changes_nothing(store, other):
    session_id = await with_steps(store, 1)
    began = await begun(store, session_id)
    entries = await store.log(session_id, 1, 0, 9)
    first = await store.migrate(migrate_request(began, entries))
    for again in (store, other):  # one knows of the new generation, the other does not
        same = await again.migrate(migrate_request(began, entries))
        assert replace(same, attempt=None) == replace(first, attempt=None)
        assert same.attempt.ref == first.attempt.ref == began.ref
    assert len(await store.log(session_id, 2, 0, 9)) == 1
    assert await store.log(session_id, 3, 0, 9) == []


async def test_of_two_gateways_one_migrates(store, other):
    session_id = await with_steps(store, 1)
    entries = await store.log(session_id, 1, 0, 9)
    loser = await begun(store, session_id)
    winner = await begun(other, session_id)
    assert winner.fenced.ref == loser.ref
    assert await refused(store.migrate(migrate_request(loser, entries))) is Reason.ATTEMPT_FENCED
    await other.migrate(migrate_request(winner, entries))
    assert await refused(store.migrate(migrate_request(loser, entries))) is Reason.ATTEMPT_FENCED
    assert (await store.get(session_id, TENANT)).generation == 2


async def test_a_later_attempt_may_migrate_again(store):
    session_id = await with_steps(store, 1)
    await migrate(store, await begun(store, session_id))
    again = await begun(store, session_id)  # a retry: fences the attempt that migrated
    descriptor = await migrate(store, again, revision="rev-3")
    assert (descriptor.generation, descriptor.model_revision) == (3, "rev-3")
    assert descriptor.former.model_revision == "rev-2"
    repeated = await store.begin(begin_request(session_id, "s0"))
    assert isinstance(repeated, AlreadyCommitted)
    assert repeated.generation == 1


async def test_another_step_than_the_live_one_and_nobody_at_all_are_fenced(store):
    session_id = await with_steps(store, 1)
    began = await begun(store, session_id)
    entries = await store.log(session_id, 1, 0, 9)
    stranger = replace(began, ref=replace(began.ref, nonce=b"x" * 16))
    assert await refused(store.migrate(migrate_request(stranger, entries))) is Reason.ATTEMPT_FENCED
    await store.abort(session_id, began.ref)
    assert await refused(store.migrate(migrate_request(began, entries))) is Reason.ATTEMPT_FENCED
    await store.delete(session_id, TENANT)
    assert await refused(store.migrate(migrate_request(began, entries))) is Reason.SESSION_NOT_FOUND


async def test_a_request_that_contradicts_itself_or_the_log_writes_nothing(store):
    session_id = await with_steps(store, 2)
    began = await begun(store, session_id)
    entries = await store.log(session_id, 1, 0, 9)
    right = migrate_request(began, entries)
    for wrong in (
        replace(right, packed_ids=right.packed_ids[:-4]),
        replace(right, packed_ids=right.packed_ids + b"....", entries=right.entries),
        replace(right, entries=right.entries[::-1]),
        replace(right, entries=(), packed_ids=b""),
    ):
        with pytest.raises(ValueError, match="step"):
            await store.migrate(wrong)
    with pytest.raises(Exception, match="does not have the steps"):
        await store.migrate(migrate_request(began, entries[:1]))
    missed = replace(right, previous=Head(5, b"x" * 16))
    assert await refused(store.migrate(missed)) is Reason.HEAD_MISMATCH
    assert (await store.get(session_id, TENANT)).generation == 1
    assert await store.log(session_id, 2, 0, 9) == []


@pytest.mark.parametrize("generation", [0, 1])
async def test_the_old_head_is_as_good_as_the_new_one_until_a_step_is_committed(store, generation):
    session_id = await with_steps(store, 2)
    began = await begun(store, session_id)
    old, new = began.descriptor.head, (await migrate(store, began)).head

    def step(step_id: str, head: Head, of: int) -> Any:
        return store.begin(begin_request(session_id, step_id, expected_head=head, expected_generation=of))

    again = await step("next", old, generation)
    assert again.descriptor.head == new
    held = await store.begin(begin_request(session_id, "next", expected_head=new, expected_generation=2))
    await store.commit(commit_request(session_id, held.ref, "next", new, index=2, model_revision="rev-2"))
    assert await refused(step("more", old, generation)) is Reason.HEAD_MISMATCH
    assert await refused(step("more", new, 2)) is Reason.HEAD_MISMATCH


async def test_a_hold_takes_the_old_head_too(store):
    session_id = await with_steps(store, 1)
    began = await begun(store, session_id)
    await migrate(store, began)
    await store.abort(session_id, began.ref)
    await store.hold(session_id, TENANT, "grep", 1.0, began.descriptor.head, 1)
    assert await refused(store.hold(session_id, TENANT, "grep", 1.0, Head(), 1)) is Reason.HEAD_MISMATCH


async def test_heads_are_judged_in_their_own_log(store):
    session_id = await with_steps(store, 3)
    first_log = [entry.head for entry in await store.log(session_id, 1, 0, 9)]
    began = await begun(store, session_id)
    new = await migrate(store, began, extra=9)
    await store.abort(session_id, began.ref)
    longer = Head(first_log[-1].length + 1, b"x" * 16)
    expected = [
        ((first_log[1], 1), Reason.HEAD_MISMATCH),  # the client missed a step before the migration
        ((longer, 1), Reason.SESSION_ROLLED_BACK),  # a step was lost before the migration
        ((Head(first_log[-1].length, b"x" * 16), 1), Reason.SESSION_ROLLED_BACK),
        ((Head(1, b"x" * 16), 3), Reason.SESSION_ROLLED_BACK),  # the migration that the client saw was lost
        ((new.head, 2), None),
        ((first_log[-1], 1), None),
        ((Head(new.head.length + 1, b"x" * 16), 2), Reason.SESSION_ROLLED_BACK),
    ]
    for (head, generation), refusal in expected:
        call = store.begin(begin_request(session_id, "x", expected_head=head, expected_generation=generation))
        if refusal is None:
            await store.abort(session_id, (await call).ref)
        else:
            assert await refused(call) is refusal, (head, generation)


async def test_a_step_of_the_old_log_is_found_there(store, other):
    session_id = await with_steps(store, 2)
    await migrate(store, await begun(store, session_id))
    repeated = await other.begin(begin_request(session_id, "s1"))
    assert isinstance(repeated, AlreadyCommitted)
    assert (repeated.generation, repeated.entry.index, repeated.entry.head.length) == (1, 1, 10)
    assert (list(loghash.unpack_ids(repeated.prompt_ids)), list(loghash.unpack_ids(repeated.output_ids))) == (
        [1, 2, 3],
        [4, 5],
    )


async def test_a_commit_that_is_sent_again_after_a_migration_returns_its_entry(store):
    session_id = (await store.open(new_session())).session_id
    began = await begun(store, session_id, "s0")
    request = commit_request(session_id, began.ref, "s0", Head(), ttl_ms=TTL_MS)
    entry = await store.commit(request)
    await migrate(store, await begun(store, session_id))
    assert await store.commit(request) == entry


async def test_a_log_without_tokens_is_bound_to_no_revision(store):
    session_id = (await store.open(new_session(model_revision="rev-1"))).session_id
    began = await begun(store, session_id)
    await store.commit(commit_request(session_id, began.ref, "next", Head(), model_revision="rev-2"))
    assert (await store.get(session_id, TENANT)).model_revision == "rev-2"
    later = await begun(store, session_id, "later")
    call = store.commit(commit_request(session_id, later.ref, "later", later.descriptor.head, model_revision="rev-1"))
    assert await refused(call) is Reason.MODEL_REVISION_MISMATCH


async def test_begin_reserves_nothing_at_an_owner_of_another_revision_nor_judges_the_length(store, raw):
    publish(raw, lease("w1"))
    session_id = await with_steps(store, 2)
    publish_cached(raw, session_id)
    kept = await begun(store, session_id, migrates_to=REVISION, max_session_tokens=20)
    assert kept.reserved == "w1"
    await store.abort(session_id, kept.ref)
    moving = await begun(store, session_id, migrates_to="rev-2", max_session_tokens=12)
    assert moving.reserved == ""
    assert raw.hlen(KEYS.reservations) == raw.hlen(KEYS.waiters) == 0
    await store.abort(session_id, moving.ref)
    assert await refused(begun(store, session_id, migrates_to=REVISION, max_session_tokens=12)) is Reason.STEP_TOO_LONG


async def test_every_key_of_every_generation_lives_and_dies_with_the_session(store, raw):
    session_id = await with_steps(store, 1)
    began = await begun(store, session_id)
    await migrate(store, began, ttl_ms=TTL_MS, lease_ms=1000)
    names = [KEYS.session(session_id), KEYS.steps(session_id)]
    names += [key(session_id, generation) for generation in (1, 2) for key in (KEYS.log, KEYS.ids)]
    assert all(TTL_MS < raw.pttl(name) <= TTL_MS + 2 * 1000 for name in names)
    await store.commit(
        commit_request(session_id, began.ref, "next", (await store.get(session_id, TENANT)).head,
                       index=1, model_revision="rev-2", ttl_ms=LONG_MS)
    )  # fmt: skip
    assert all(TTL_MS < raw.pttl(name) <= LONG_MS for name in names)
    await store.delete(session_id, TENANT)
    assert raw.exists(KEYS.steps(session_id)) == 0
    assert not any(raw.exists(name) for name in names[1:])
