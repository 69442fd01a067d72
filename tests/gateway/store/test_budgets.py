"""Budgets in the store: what counts, how often, and what happens when one is used up."""

from dataclasses import replace

import pytest

from fork_driver import forked
from refused_calls import refused
from roost.contract.budgets import BudgetScope, BudgetStatus, BudgetUnit
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.budgets import Budget, BudgetRules, ExtendRequest, Spending
from roost.store.interface import SessionStore
from roost.store.keys import PoolKeys
from roost.store.records import Began, LogEntry
from store_driver import (
    LONG_MS,
    POOL,
    TENANT,
    begin_request,
    commit_request,
    migrate_request,
    new_session,
)

TASK = "fix #12"
ENDLESS_MS = 10**15
"""A window that does not end during a test."""
COUNTERS = {"tokens": "tokens", "gpu_us": "gpu_seconds", "steps": "steps", "wall_ms": "wall_seconds"}


def rules(scope: str, counter: str, limit: int, **fields: object) -> BudgetRules:
    window_ms = ENDLESS_MS if scope in ("role", "tenant") else 0
    budget = Budget(BudgetScope(scope), counter, limit, window_ms)
    return replace(BudgetRules(TENANT, "coder", TASK, (budget,), grace_steps=0), **fields)


async def opened(store: SessionStore, **fields: object) -> str:
    return (await store.open(new_session(task=TASK, **fields))).session_id


async def take(
    store: SessionStore, session_id: str, step_id: str, of: BudgetRules, *, seconds: float = 0.0, **fields: object
) -> LogEntry:
    """A step of 3 prompt tokens and 2 of output."""
    began = await store.begin(begin_request(session_id, step_id, rules=of))
    assert isinstance(began, Began)
    head = began.descriptor.head
    given = {"cached_tokens": 0, **fields}
    request = commit_request(session_id, began.ref, step_id, head, rules=of, gpu_seconds=seconds, **given)
    return await store.commit(request)


@pytest.mark.parametrize("scope", list(BudgetScope))
@pytest.mark.parametrize(("counter", "limit", "used"), [("tokens", 8, 10), ("gpu_us", 3_000_000, 3.5), ("steps", 2, 2)])
async def test_a_step_is_refused_once_a_budget_is_used_up_and_the_refusal_has_the_figures(
    store, scope, counter, limit, used
):
    session_id, of = await opened(store), rules(scope, counter, limit)
    await take(store, session_id, "a", of, seconds=1.75)
    await take(store, session_id, "b", of, seconds=1.75)
    error = await refused(store.begin(begin_request(session_id, "c", rules=of)))
    assert error.reason is Reason.BUDGET_EXCEEDED
    scale = 1_000_000 if counter == "gpu_us" else 1
    unit = BudgetUnit(COUNTERS[counter])
    assert BudgetStatus.from_metadata(error.metadata) == BudgetStatus(scope, unit, used, limit / scale)
    assert Head.from_metadata(error.metadata).length == 10
    assert (error.retry_seconds is not None) == (scope in ("role", "tenant")), "windows end by themselves"
    assert isinstance(await store.begin(begin_request(session_id, "c", rules=rules(scope, counter, 2 * limit))), Began)


async def test_time_counts_from_the_first_step_on(store):
    session_id, of = await opened(store), rules("session", "wall_ms", 1)
    await take(store, session_id, "a", of)

    async def outcome() -> Reason | None:
        try:
            began = await store.begin(begin_request(session_id, "b", rules=of))
        except Refused as error:
            return error.reason
        await store.abort(session_id, began.ref)
        return None

    while (reason := await outcome()) is None:
        pass
    assert reason is Reason.BUDGET_EXCEEDED
    assert (await store.get(session_id, TENANT)).account.wall_ms >= 1


@pytest.mark.parametrize(
    ("log", "cached", "counts"),
    [(5, 4, 5), (5, 0, 5), (0, 0, 5), (0, 2, 3), (0, 9, 2), (5, 7, 3)],
    ids=["cached log", "log rebuilt", "first step", "prefix of others", "whole prompt", "log and prompt"],
)
async def test_tokens_that_a_cache_had_and_a_rebuilt_log_do_not_count(store, log, cached, counts):
    session_id, of = await opened(store), rules("session", "tokens", 1000)
    if log:
        await take(store, session_id, "a", of)
    before = (await store.get(session_id, TENANT)).account.tokens
    await take(store, session_id, "b", of, cached_tokens=cached)
    assert (await store.get(session_id, TENANT)).account.tokens - before == counts


async def test_a_committed_step_counts_once_however_often_it_is_sent(store, other):
    session_id, of = await opened(store), rules("task", "steps", 100, warn_percent=1)
    began = await store.begin(begin_request(session_id, "a", rules=of))
    request = commit_request(session_id, began.ref, "a", rules=of, gpu_seconds=1.0, cached_tokens=0)
    first = await store.commit(request)
    again = await other.commit(request)
    assert first == again
    assert first.budgets == (BudgetStatus(BudgetScope.TASK, BudgetUnit.STEPS, 1, 100),)
    await other.begin(begin_request(session_id, "a", rules=of))
    account = (await store.get(session_id, TENANT)).account
    assert (account.tokens, account.gpu_us, account.steps) == (5, 1_000_000, 1)


async def test_a_step_that_is_taken_over_counts_once_and_is_not_refused_halfway(store, other):
    of = rules("task", "steps", 1)
    first_id, second_id = await opened(store), await opened(store)
    lost = await store.begin(begin_request(first_id, "a", rules=of))
    await take(store, second_id, "b", of)
    taken = await other.begin(begin_request(first_id, "a", rules=of))
    assert taken.fenced.ref == lost.ref
    stale = await refused(store.commit(commit_request(first_id, lost.ref, "a", rules=of)))
    assert stale.reason is Reason.ATTEMPT_FENCED
    entry = await other.commit(commit_request(first_id, taken.ref, "a", rules=of))
    assert entry.budgets == (BudgetStatus(BudgetScope.TASK, BudgetUnit.STEPS, 2, 1),)


async def test_an_attempt_that_does_not_commit_counts_nothing(store):
    session_id, of = await opened(store), rules("session", "steps", 1)
    for step in ("a", "b", "c"):
        began = await store.begin(begin_request(session_id, step, rules=of))
        await store.abort(session_id, began.ref)
    assert (await store.get(session_id, TENANT)).account.steps == 0


async def test_all_sessions_of_a_task_count_together_and_a_fork_of_it_gets_no_grace(store):
    of = rules("task", "steps", 2, grace_steps=3)
    first_id, second_id = await opened(store), await opened(store)
    await take(store, first_id, "a", of)
    fork = await forked(store, first_id)
    await take(store, second_id, "a", of)
    for session_id in (fork.session_id, await opened(store)):
        error = await refused(store.begin(begin_request(session_id, "b", rules=of)))
        assert error.reason is Reason.BUDGET_EXCEEDED
    assert isinstance(await store.begin(begin_request(first_id, "b", rules=of)), Began), "it may wrap up"
    elsewhere = replace(of, task="another")
    assert isinstance(await store.begin(begin_request(fork.session_id, "b", rules=elsewhere)), Began)
    foreign = replace(of, tenant="other")
    await store.abort(first_id, (await store.get(first_id, TENANT)).attempt.ref)
    assert isinstance(await store.begin(begin_request(first_id, "c", rules=foreign)), Began)


async def test_what_a_session_used_is_not_its_forks(store):
    session_id, of = await opened(store), rules("session", "steps", 1)
    await take(store, session_id, "a", of)
    await store.extend(ExtendRequest(session_id, TENANT, BudgetScope.SESSION, TASK, Spending(steps=5), "r", 0))
    fork = await forked(store, session_id)
    assert fork.account == type(fork.account)()
    await take(store, fork.session_id, "b", of)
    error = await refused(store.begin(begin_request(fork.session_id, "c", rules=of)))
    assert error.reason is Reason.BUDGET_EXCEEDED


async def test_the_result_warns_from_the_percentage_on(store):
    session_id, of = await opened(store), rules("session", "steps", 5, warn_percent=80)
    warned = [await take(store, session_id, step, of) for step in "abcd"]
    status = BudgetStatus(BudgetScope.SESSION, BudgetUnit.STEPS, 4, 5)
    assert [entry.budgets for entry in warned] == [(), (), (), (status,)]
    began = await store.begin(begin_request(session_id, "e", rules=of))
    assert began.budgets == (status,)
    assert (await store.log(session_id, 1, 3, 1))[0].budgets == (), "it is not stored"


async def test_a_warning_does_not_depend_on_how_fractions_of_seconds_are_rounded(store):
    session_id, of = await opened(store), rules("session", "gpu_us", 1_000_000, warn_percent=57)
    entry = await take(store, session_id, "a", of, seconds=0.57)
    assert [status.used for status in entry.budgets] == [0.57]


async def test_grace_is_for_so_many_steps_and_comes_back_with_an_extension(store):
    session_id, of = await opened(store), rules("session", "steps", 1, asks=True, grace_steps=2)

    async def extend(steps: int, request: str) -> None:
        await store.extend(
            ExtendRequest(session_id, TENANT, BudgetScope.SESSION, TASK, Spending(steps=steps), request, 0)
        )

    for step in "abc":
        await take(store, session_id, step, of)
    error = await refused(store.begin(begin_request(session_id, "d", rules=of)))
    assert error.reason is Reason.BUDGET_PAUSED
    await extend(3, "r1")
    await extend(3, "r1")
    assert (await store.get(session_id, TENANT)).account.more == Spending(steps=3)
    for step in "def":
        await take(store, session_id, step, of)
    assert (await refused(store.begin(begin_request(session_id, "g", rules=of)))).reason is Reason.BUDGET_PAUSED
    await extend(3, "r2")
    head = (await take(store, session_id, "g", of)).head
    assert head.length == 35, "it went on where it was"


async def test_a_tasks_budget_is_extended_for_all_its_sessions(store, other):
    of = rules("task", "tokens", 5, asks=True)
    first_id, second_id = await opened(store), await opened(store)
    await take(store, first_id, "a", of)
    assert (await refused(store.begin(begin_request(second_id, "a", rules=of)))).reason is Reason.BUDGET_PAUSED
    await other.extend(ExtendRequest(first_id, TENANT, BudgetScope.TASK, TASK, Spending(tokens=5), "r", LONG_MS))
    assert isinstance(await store.begin(begin_request(second_id, "a", rules=of)), Began)


async def test_a_budget_of_another_tenants_session_cannot_be_extended(store, session_id):
    request = ExtendRequest(session_id, "other", BudgetScope.SESSION, "", Spending(steps=1), "r", 0)
    assert (await refused(store.extend(request))).reason is Reason.SESSION_NOT_FOUND


async def test_a_new_log_keeps_what_was_used(store):
    session_id, of = await opened(store), rules("session", "steps", 3)
    await take(store, session_id, "a", of)
    began = await store.begin(begin_request(session_id, "b", rules=of))
    await store.migrate(migrate_request(began, await store.log(session_id, 1, 0, 9)))
    await store.abort(session_id, began.ref)
    assert (await store.get(session_id, TENANT)).account.steps == 1


async def test_a_window_that_is_over_counts_no_more(store, raw):
    session_id, of = await opened(store), rules("role", "steps", 1)
    await take(store, session_id, "a", of)
    assert (await refused(store.begin(begin_request(session_id, "b", rules=of)))).reason is Reason.BUDGET_EXCEEDED
    account = PoolKeys(POOL).role_account("coder")
    assert raw.pttl(account) > 0
    raw.hset(account, "spent:window", "-1")
    await take(store, session_id, "b", of)
    assert raw.hget(account, "spent:steps") == b"1"


async def test_what_a_task_used_is_forgotten_when_nobody_uses_it(store, raw):
    session_id, of = await opened(store), rules("task", "steps", 9, task_ttl_ms=LONG_MS)
    account = PoolKeys(POOL).task_account(TENANT, TASK)
    await take(store, session_id, "a", of)
    assert 0 < raw.pttl(account) <= LONG_MS
    await take(store, session_id, "b", replace(of, task_ttl_ms=0))
    assert raw.pttl(account) == -1
