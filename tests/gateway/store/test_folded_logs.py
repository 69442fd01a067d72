"""A log that is folded: a step in place of its first steps, in a generation of its own."""

from dataclasses import replace

import pytest

from fork_driver import forked
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest
from roost.store.forks import fork_session
from roost.store.generations import Fold, FormerLog, steps_now
from roost.store.interface import SessionStore
from roost.store.records import AlreadyCommitted, Began, Descriptor
from store_driver import REVISION, TENANT, begin_request, commit_step, fold_request, new_session


async def with_steps(store: SessionStore, count: int) -> tuple[str, list[Head]]:
    """A session with steps `s0`, `s1`, …, and its heads after each."""
    session_id = (await store.open(new_session())).session_id
    heads = [await commit_step(store, session_id, f"s{number}") for number in range(count)]
    return session_id, [replace(head, generation=1) for head in heads]


async def fold(store: SessionStore, session_id: str, folded: int, step_id: str = "fold") -> Descriptor:
    began = await store.begin(begin_request(session_id, step_id))
    assert isinstance(began, Began)
    descriptor = began.descriptor
    entries = await store.log(session_id, descriptor.generation, 0, 99)
    return await store.migrate(fold_request(began, entries, folded))


async def why(call) -> Reason:
    with pytest.raises(Refused) as error:
        await call
    return error.value.reason


async def test_a_folded_session_goes_on_from_its_first_step_and_the_last_ones(store, other):
    session_id, heads = await with_steps(store, 4)
    folded = await fold(store, session_id, 3)
    assert (folded.generation, folded.steps, folded.folds, folded.attempt) == (2, 2, (Fold(2, 3),), None)
    assert folded.former == FormerLog(replace(heads[3], generation=0), 2, REVISION)
    assert [entry.step_id for entry in await other.log(session_id, 2, 0, 9)] == ["fold", "s3"]
    assert [entry.step_id for entry in await other.log(session_id, 1, 0, 9)] == ["s0", "s1", "s2", "s3"]
    began = await other.begin(begin_request(session_id, "next", expected_head=heads[3], expected_generation=1))
    assert isinstance(began, Began), "the last head of the old log is as good as that of the new one"
    await other.abort(session_id, began.ref)
    assert (await commit_step(store, session_id, "next")).length == folded.head.length + 5
    assert await why(store.begin(begin_request(session_id, "b", expected_head=heads[3]))) is Reason.HEAD_MISMATCH


async def test_the_same_fold_is_done_once(store, other):
    session_id, _ = await with_steps(store, 3)
    began = await store.begin(begin_request(session_id, "fold"))
    request = fold_request(began, await store.log(session_id, 1, 0, 9), 2)
    first = await store.migrate(request)
    assert await other.migrate(request) == first
    again = await other.begin(begin_request(session_id, "fold"))
    assert isinstance(again, AlreadyCommitted)
    assert (again.generation, again.entry.index) == (2, 0)
    assert await why(other.begin(begin_request(session_id, "fold", digest=bytes(16)))) is Reason.STEP_ID_REUSED


async def test_a_fenced_fold_writes_nothing(store, other):
    session_id, _ = await with_steps(store, 3)
    stale = await store.begin(begin_request(session_id, "fold"))
    request = fold_request(stale, await store.log(session_id, 1, 0, 9), 2)
    taken = await other.begin(begin_request(session_id, "fold"))
    assert await why(store.migrate(request)) is Reason.ATTEMPT_FENCED
    assert (await store.get(session_id, TENANT)).generation == 1
    assert (await other.migrate(fold_request(taken, await store.log(session_id, 1, 0, 9), 2))).steps == 2


async def test_a_step_of_the_old_log_that_is_sent_again_has_its_result(store):
    session_id, _ = await with_steps(store, 3)
    await fold(store, session_id, 3)
    for step_id, generation, index in (("s0", 1, 0), ("s2", 1, 2), ("fold", 2, 0)):
        stored = await store.begin(begin_request(session_id, step_id))
        assert isinstance(stored, AlreadyCommitted)
        assert (stored.entry.step_id, stored.generation, stored.entry.index) == (step_id, generation, index)


async def test_folded_steps_count_against_the_roles_limit(store):
    session_id, _ = await with_steps(store, 3)
    await fold(store, session_id, 3)
    assert await why(store.begin(begin_request(session_id, "b", max_steps=3))) is Reason.STEP_LIMIT_REACHED
    assert isinstance(await store.begin(begin_request(session_id, "b", max_steps=4)), Began)


async def test_forks_branch_off_where_the_log_still_has_a_step_of_its_own(store):
    session_id, heads = await with_steps(store, 4)
    await fold(store, session_id, 2)

    async def fork_at(head: Head) -> Descriptor:
        return await fork_session(store, ForkRequest(session_id, head), TENANT)

    assert await why(fork_at(heads[0])) is Reason.SESSION_ROLLED_BACK
    for head, steps in zip(heads[1:], (1, 2, 3), strict=True):
        fork = await fork_at(head)
        assert (fork.steps, fork.folds, fork.inherited_steps) == (steps, (), steps)
        assert (await store.log(fork.session_id, 1, 0, 9))[0].step_id == "fold"
    whole = await forked(store, session_id)
    assert isinstance(await store.begin(begin_request(whole.session_id, "a", max_steps=1)), Began)


async def test_a_log_is_folded_again(store):
    session_id, heads = await with_steps(store, 3)
    await fold(store, session_id, 3, "one")
    await commit_step(store, session_id, "s3")
    folded = await fold(store, session_id, 2, "two")
    assert (folded.folds, folded.steps) == ((Fold(2, 3), Fold(3, 2)), 1)
    old = begin_request(session_id, "b", expected_head=heads[2], expected_generation=1)
    assert await why(store.begin(old)) is Reason.HEAD_MISMATCH


@pytest.mark.parametrize(
    ("generation", "steps", "now"),
    [(1, 0, 0), (1, 2, None), (1, 3, None), (1, 5, None), (1, 6, 1), (1, 7, 2), (2, 1, None), (2, 4, 1), (3, 4, 4)],
)
def test_steps_of_older_logs_keep_their_place_behind_the_folds(generation, steps, now):
    assert steps_now((Fold(2, 3), Fold(3, 4)), generation, steps) == now
