"""A session that was branched off another one: what it has of that, what it has not, and what counts for it."""

import dataclasses

from fork_driver import forked, heads, log_of, opened, why
from roost.contract import loghash, names
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.sessions import ForkPoint
from roost.store.records import Began, State
from store_driver import (
    LONG_MS,
    POOL,
    TENANT,
    begin_request,
    commit_request,
    commit_step,
    digest,
    lease,
    migrate_request,
    publish,
    publish_cached,
)


async def test_a_fork_has_what_the_other_was_opened_with_and_a_course_of_its_own(store):
    parent_id = await opened(store, 2, task="t", parent="p", labels={"a": "b"}, model_revision="rev-1", ttl_ms=LONG_MS)
    await store.hold(parent_id, TENANT, "grep", 1.0, None)
    parent = await store.get(parent_id, TENANT)
    fork = await forked(store, parent_id, labels={"c": "d"})
    assert fork == await store.get(fork.session_id, TENANT)
    for name in ("tenant", "pool", "role", "task", "parent", "system", "tools", "model", "model_revision"):
        assert getattr(fork, name) == getattr(parent, name), name
    assert (fork.head, fork.steps, fork.labels, fork.inherited_steps) == (parent.head, 2, {"c": "d"}, 2)
    assert fork.forked_from == ForkPoint(parent_id, parent.head)
    assert fork.forked_from.head.generation == 1
    assert (fork.epoch, fork.prompt_tokens, fork.output_tokens, fork.hold, fork.state) == (0, 0, 0, None, State.ACTIVE)
    assert fork.expires_ms - fork.created_ms == LONG_MS
    assert (await forked(store, parent_id, task="other")).task == "other"
    assert await store.get(parent_id, TENANT) == parent
    assert fork.session_id in [listed.session_id for listed in await store.list_sessions(POOL, TENANT, "", 9)]


async def test_both_go_on_from_the_point_alone(store):
    parent_id = await opened(store, 2)
    fork = await forked(store, parent_id)
    await commit_step(store, parent_id, "theirs", prompt=(70,), output=(71,))
    await commit_step(store, fork.session_id, "ours", prompt=(80,), output=(81, 82))
    before = ["step-0", "step-1"], [0, 0, 4, 5, 1, 1, 4, 5]
    assert await log_of(store, parent_id) == ([*before[0], "theirs"], [*before[1], 70, 71])
    assert await log_of(store, fork.session_id) == ([*before[0], "ours"], [*before[1], 80, 81, 82])
    after = await store.get(fork.session_id, TENANT)
    assert (after.steps, after.head.length, after.prompt_tokens, after.output_tokens) == (3, 11, 1, 2)


async def test_every_range_of_a_forks_log_is_read_as_if_it_were_its_own(store):
    parent_id = await opened(store, 3)
    fork = await forked(store, parent_id, (await heads(store, parent_id))[1])
    await commit_step(store, fork.session_id, "ours", prompt=(80,), output=(81, 82))
    steps, ids = await log_of(store, fork.session_id)
    assert steps == ["step-0", "step-1", "ours"]
    for first in range(len(ids) + 1):
        for end in range(first, len(ids) + 2):
            assert list(loghash.unpack_ids(await store.ids(fork.session_id, 1, first, end))) == ids[first:end]
    for first in range(4):
        for count in range(5):
            entries = await store.log(fork.session_id, 1, first, count)
            assert [entry.step_id for entry in entries] == steps[first : first + count]


async def test_a_fork_begins_at_any_head_of_the_log(store):
    parent_id = await opened(store, 5)
    all_heads = [Head(), *await heads(store, parent_id)]
    for steps, head in enumerate(all_heads):
        fork = await forked(store, parent_id, head)
        assert (fork.head, fork.steps) == (head, steps)
        assert (await log_of(store, fork.session_id))[0] == [f"step-{number}" for number in range(steps)]
        await commit_step(store, fork.session_id, "ours")
        assert (await store.get(fork.session_id, TENANT)).steps == steps + 1


async def test_a_head_that_no_step_ends_at_is_refused(store):
    parent_id = await opened(store, 3)
    first, *_, last = await heads(store, parent_id)
    for wrong in (
        Head(0, first.log_hash),
        Head(first.length + 1, first.log_hash),
        Head(first.length, last.log_hash),
        Head(last.length + 4, last.log_hash),
        dataclasses.replace(first, generation=2),
    ):
        assert await why(forked(store, parent_id, wrong)) is Reason.SESSION_ROLLED_BACK
    assert len(await store.list_sessions(POOL, TENANT, "", 9)) == 1


async def test_another_tenants_session_is_not_forked(store):
    parent_id = await opened(store, tenant="mallory")
    assert await why(forked(store, parent_id)) is Reason.SESSION_NOT_FOUND
    assert await why(forked(store, parent_id, Head())) is Reason.SESSION_NOT_FOUND
    assert await why(forked(store, names.new_session_id(POOL))) is Reason.SESSION_NOT_FOUND


async def test_a_repeated_request_returns_the_fork_that_it_made(store):
    parent_id = await opened(store, 1)
    fork = await forked(store, parent_id, request_id="once")
    assert await forked(store, parent_id, request_id="once") == fork
    await commit_step(store, parent_id, "next")
    await store.delete(parent_id, TENANT)
    assert (await forked(store, parent_id, request_id="once")).session_id == fork.session_id
    assert await why(forked(store, parent_id, request_id="twice")) is Reason.SESSION_NOT_FOUND


async def test_a_session_is_forked_while_it_runs_a_step_and_when_it_is_closed(store):
    parent_id = await opened(store, 1)
    began = await store.begin(begin_request(parent_id, "running"))
    fork = await forked(store, parent_id)
    assert (fork.steps, fork.attempt, fork.epoch) == (1, None, 0)
    assert isinstance(await store.begin(begin_request(fork.session_id, "running")), Began)
    await store.commit(commit_request(parent_id, began.ref, "running", began.descriptor.head))
    await store.close(parent_id, TENANT)
    assert (await forked(store, parent_id)).state is State.ACTIVE


async def test_step_ids_of_the_other_session_are_free_in_the_fork(store):
    fork = await forked(store, await opened(store, 1))
    assert isinstance(await store.begin(begin_request(fork.session_id, "step-0", digest=digest("else"))), Began)


async def test_a_forks_repeated_commit_and_step_return_its_own_entry(store):
    fork = await forked(store, await opened(store, 2))
    began = await store.begin(begin_request(fork.session_id, "ours"))
    request = commit_request(fork.session_id, began.ref, "ours", fork.head, prompt=(8,), output=(9, 10))
    entry = await store.commit(request)
    assert (entry.index, entry.step_id) == (2, "ours")
    assert await store.commit(request) == entry
    stored = await store.begin(begin_request(fork.session_id, "ours"))
    assert (stored.entry, loghash.unpack_ids(stored.output_ids).tolist()) == (entry, [9, 10])


async def test_limits_count_what_the_fork_adds(store):
    fork = await forked(store, await opened(store, 2))
    assert fork.head.length == 8
    request = {"budget_tokens": 12, "max_steps": 1, "new_tokens": 5}
    await commit_step(store, fork.session_id, "ours")  # of 5 tokens
    assert await why(store.begin(begin_request(fork.session_id, "b", **request))) is Reason.STEP_LIMIT_REACHED
    request["max_steps"] = 2
    assert isinstance(await store.begin(begin_request(fork.session_id, "b", **request, lease_ms=0)), Began)
    request["new_tokens"] = 8
    assert await why(store.begin(begin_request(fork.session_id, "c", **request))) is Reason.BUDGET_EXHAUSTED
    too_long = begin_request(fork.session_id, "d", max_session_tokens=17, new_tokens=5)
    assert await why(store.begin(too_long)) is Reason.STEP_TOO_LONG


async def test_a_fork_does_not_escape_the_quarantine_of_its_family(store):
    first = await opened(store, 1)
    second = (await forked(store, first)).session_id
    third = (await forked(store, second, Head())).session_id
    await store.quarantine(second, digest("killer"), LONG_MS)
    for session_id in (first, second, third, (await forked(store, third)).session_id):
        assert await why(store.begin(begin_request(session_id, "killer"))) is Reason.STEP_KILLED_WORKERS
    assert isinstance(await store.begin(begin_request(await opened(store), "killer")), Began)


async def test_a_fork_migrates_alone_and_keeps_its_old_log(store):
    parent_id = await opened(store, 2)
    fork_id = (await forked(store, parent_id)).session_id
    await commit_step(store, fork_id, "ours")
    old = await log_of(store, fork_id)
    began = await store.begin(begin_request(fork_id, "next"))
    migrated = await store.migrate(migrate_request(began, await store.log(fork_id, 1, 0, 9)))
    assert (migrated.generation, migrated.steps, migrated.inherited_steps, migrated.kv_of) == (2, 3, 2, "")
    assert (await log_of(store, fork_id, 2))[0] == old[0]
    assert await log_of(store, fork_id) == old
    request = commit_request(fork_id, began.ref, "next", migrated.head, model_revision="rev-2")
    assert (await store.commit(request)).index == 3
    assert (await store.get(parent_id, TENANT)).generation == 1
    await store.delete(parent_id, TENANT)
    assert await log_of(store, fork_id) == old


async def test_a_session_that_has_migrated_is_forked_in_its_new_generation(store):
    parent_id = await opened(store, 2)
    old_first, old_last = await heads(store, parent_id)
    began = await store.begin(begin_request(parent_id, "next"))
    migrated = await store.migrate(migrate_request(began, await store.log(parent_id, 1, 0, 9), extra=1))
    await store.abort(parent_id, began.ref)
    first, last = [entry.head for entry in await store.log(parent_id, 2, 0, 9)]
    for asked, wanted in (
        (None, last),
        (last, last),
        (dataclasses.replace(first, generation=2), first),
        (dataclasses.replace(old_first, generation=1), first),
        (dataclasses.replace(old_last, generation=1), last),
    ):
        fork = await forked(store, parent_id, asked)
        assert (fork.head, fork.generation, fork.model_revision) == (wanted, 1, migrated.model_revision)
        assert fork.forked_from.head.generation == 2
        assert await store.ids(fork.session_id, 1, 0, 99) == await store.ids(parent_id, 2, 0, wanted.length)
    assert await why(forked(store, parent_id, old_first)) is Reason.SESSION_ROLLED_BACK


async def test_the_owner_of_the_other_session_is_the_forks_while_it_has_it_cached(store, raw):
    parent_id = await opened(store, 2)
    publish(raw, lease("w1"))
    publish_cached(raw, parent_id, "w1", 6)
    fork_id = (await forked(store, parent_id)).session_id
    second = (await forked(store, fork_id, (await heads(store, parent_id))[0])).session_id
    for session_id, cached in ((fork_id, 6), (second, 4)):
        began = await store.begin(begin_request(session_id, "first"))
        assert (began.cached_tokens, began.reserved) == (cached, "w1")
        assert (await store.look(POOL, "w1", session_id)).cached_tokens == cached
        await store.abort(session_id, began.ref)
    publish_cached(raw, parent_id, "w1", 0)
    assert (await store.begin(begin_request(second, "second"))).cached_tokens == 0
    await commit_step(store, fork_id, "ours")
    publish_cached(raw, parent_id, "w1", 6)
    publish(raw, lease("w1"), ms=2 * LONG_MS)
    assert (await store.begin(begin_request(fork_id, "more"))).cached_tokens == 0, "its own name counts from now on"
