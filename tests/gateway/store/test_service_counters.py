"""What tenants have had of a pool, in Redis: charged with a reservation, corrected at the end, one order for all
gateways."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.contract.refused import Refused
from roost.store.keys import PoolKeys
from roost.store.memory import MemoryStore
from roost.store.records import Began, RenewItem
from roost.store.redis_store import connect
from roost.store.service import MOST_TENANTS, START_OUTPUT, Demand, Done, weighted_service
from roost.store.wake import Wake
from store_comparison import comparable, profile
from store_driver import (
    LONG_MS,
    POOL,
    assert_same_services,
    begin_grace,
    begin_request,
    commit_request,
    lease,
    new_session,
    next_ms,
    own,
    publish,
    publish_cached,
    redis_ms,
    reservation,
    tenant_services,
    wakes_of_releases,
)

KEYS = PoolKeys(POOL)
TENANTS = ("a", "b", "c")


async def begun(store, tenant: str = "a", demand: Demand = Demand(), **fields) -> Began:  # noqa: B008  # frozen
    session_id = (await store.open(new_session(tenant=tenant))).session_id
    return await store.begin(begin_request(session_id, tenant=tenant, demand=demand, **fields))


def set_counter(raw, tenant: str, counter: int, *, waiting: int = 0, until_ms: int = 0) -> None:
    """As if the tenant had had that much."""
    raw.hset(KEYS.service, tenant, f"{counter}:0:{waiting}:{until_ms}")
    raw.zadd(KEYS.service_waiting if waiting else KEYS.service_resting, {tenant: counter})


async def test_a_step_is_charged_when_it_reserves_and_corrected_when_it_is_committed(store, raw):
    publish(raw, lease("w1"))
    demand = Demand(weight=2, prompt_tokens=30, output_tokens=1000)
    began = await begun(store, demand=demand)
    assert (began.counter, tenant_services(raw)["a"][2]) == (0, 1)
    granted = await store.reserve(reservation(began))
    assert granted.counter == weighted_service(30, START_OUTPUT, 2)
    assert (await store.reserve(reservation(began, tokens=20))).counter == granted.counter, "once for each attempt"
    session_id = began.descriptor.session_id
    entry = await store.commit(commit_request(session_id, began.ref, "step-1", prompt=(1,) * 40, output=(2,) * 6))
    assert entry.counter == weighted_service(40, 6, 2)
    assert tenant_services(raw)["a"][1:] == (8 * 6, 0)
    again = await begun(store, demand=Demand(1, 30, 1000))
    assert (await store.reserve(reservation(again))).counter == entry.counter + weighted_service(30, 6, 1)


@pytest.mark.parametrize("done", [Done(), Done(40, 6)])
async def test_a_step_that_is_given_up_costs_what_it_has_done(store, raw, done):
    publish(raw, lease("w1"))
    began = await begun(store, demand=Demand(1, 30, 1000))
    await store.reserve(reservation(began))
    for _ in range(2):
        assert await store.abort(began.descriptor.session_id, began.ref, done) == weighted_service(40, 6, 1) * bool(
            done.output_tokens
        )
    assert tenant_services(raw)["a"][1] == 0, "what was cut off says nothing of how long outputs are"


async def test_the_log_is_context(store, raw):
    publish(raw, lease("w1"))
    began = await begun(store)
    session_id = began.descriptor.session_id
    head = (await store.commit(commit_request(session_id, began.ref, "step-1"))).head
    publish_cached(raw, session_id, tokens=head.length)
    again = await store.begin(begin_request(session_id, "step-2", tenant="a", demand=Demand(1, 7, 2)))
    assert again.reserved == "w1"
    assert again.counter - weighted_service(3, 2, 1) == weighted_service(head.length + 7, 2, 1)


async def test_a_retry_is_not_charged_again(store, other, raw):
    publish(raw, lease("w1"))
    began = await begun(store, demand=Demand(1, 10, 10))
    counter = (await store.reserve(reservation(began))).counter
    session_id = began.descriptor.session_id
    again = await other.begin(begin_request(session_id, tenant="a", demand=Demand(1, 10, 10)))
    assert (again.reserved, again.counter) == ("w1", counter)
    assert await other.abort(session_id, again.ref) == 0


async def test_of_equal_classes_the_tenant_that_has_had_less_goes_first_whatever_gateway_it_waits_in(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    running = await begun(store, "c")
    assert await store.reserve(reservation(running))
    set_counter(raw, "a", 500, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
    set_counter(raw, "b", 400, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
    first, second = await begun(store, "a"), await begun(other, "b")
    assert not await store.reserve(reservation(first))
    next_ms()
    assert not await other.reserve(reservation(second))
    await store.abort(running.descriptor.session_id, running.ref)
    refused = await store.reserve(reservation(first))
    assert (refused.granted, refused.counter) == (False, 500)
    assert await other.reserve(reservation(second))


async def test_begin_does_not_overtake_a_tenant_that_has_had_less(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    waiting = await begun(store, "b")
    assert not await store.reserve(reservation(waiting, tokens=200))
    set_counter(raw, "a", 300, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
    session_id = (await other.open(new_session(tenant="a"))).session_id
    own(raw, session_id)
    assert (await other.begin(begin_request(session_id, tenant="a"))).reserved == ""
    session_id = (await other.open(new_session(tenant="c"))).session_id
    own(raw, session_id)
    next_ms()
    tied = await other.begin(begin_request(session_id, tenant="c"))
    assert tied.reserved == "", "it has had nothing as well, and came later"


async def test_the_step_of_who_has_had_the_least_is_heard_when_it_leaves_though_another_came_first(store, raw):
    publish(raw, lease("w1", capacity_tokens=5))
    places = []
    for tenant, counter in (("a", 500), ("b", 400), ("c", 600)):
        set_counter(raw, tenant, counter, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
        places.append(reservation(await begun(store, tenant), revision="rev-1"))
        assert not await store.reserve(places[-1])
        next_ms()
    assert await wakes_of_releases(raw, store, places[2], places[1]) == [Wake(line="rev-1"), Wake()]


async def test_how_long_a_step_has_waited_decides_between_steps_of_one_tenant(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    running = await begun(store)
    assert await store.reserve(reservation(running))
    young, old = await begun(store), await begun(other)
    assert not await store.reserve(reservation(young))
    next_ms()
    assert not await other.reserve(reservation(old, waited_ms=9_000))
    await store.abort(running.descriptor.session_id, running.ref)
    assert not await store.reserve(reservation(young))
    assert await other.reserve(reservation(old, waited_ms=9_000))


async def test_a_tenant_that_comes_back_is_lifted_to_the_least_that_waits(store, raw):
    until_ms = redis_ms(raw) + LONG_MS
    set_counter(raw, "b", 700, waiting=1, until_ms=until_ms)
    set_counter(raw, "dead", 100, waiting=1, until_ms=1)
    assert (await begun(store, "a")).counter == 700
    assert tenant_services(raw)["dead"][2] == 0
    set_counter(raw, "c", 900)
    assert (await begun(store, "c")).counter == 900


async def test_nobody_is_taken_for_dead_in_the_grace_period(store, raw):
    set_counter(raw, "b", 100, waiting=1, until_ms=1)
    set_counter(raw, "c", 700, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
    begin_grace(store)
    assert (await begun(store, "a")).counter == 100


async def test_a_tenant_waits_for_as_long_as_its_attempts_are_renewed(store, raw):
    began = await begun(store, lease_ms=1)
    await store.renew(POOL, [RenewItem(began.descriptor.session_id, began.ref)], LONG_MS)
    next_ms()
    next_ms()
    set_counter(raw, "c", 50, waiting=1, until_ms=redis_ms(raw) + LONG_MS)
    assert (await begun(store, "b")).counter == 0


async def test_tenants_that_rest_are_forgotten_when_there_are_too_many(store, raw):
    publish(raw, lease("w1"))
    names = {f"t{number}": f"{number}:0:0:0" for number in range(MOST_TENANTS)}
    raw.hset(KEYS.service, mapping=names)
    raw.zadd(KEYS.service_resting, {name: number for number, name in enumerate(names)})
    began = await begun(store)
    assert raw.hlen(KEYS.service) == MOST_TENANTS
    assert not raw.hexists(KEYS.service, "t0")
    await store.reserve(reservation(began))
    assert raw.hexists(KEYS.service, "t1"), "the clock is no tenant"
    assert 0 < raw.pttl(KEYS.service) <= 3_600_000


MOVES = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(("begin", "begin", "reserve", "reserve", "commit", "abort", "release", "renew", "hold")),
        st.integers(1, 30),
    ),
    min_size=5,
    max_size=40,
)


class BothStores:
    """Redis and memory, with two sessions of each of three tenants and one small worker."""

    def __init__(self, server: RedisServer) -> None:
        self.runner, self.now = asyncio.Runner(), 1
        self.raw = server.client()
        self.raw.flushall()
        self.memory = MemoryStore(lambda: self.now)
        self.redis = self.runner.run(connect(server.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0))
        worker = lease("w1", capacity_tokens=60, max_running=1)
        publish(self.raw, worker)
        self.memory.publish(POOL, worker, LONG_MS)
        self.sessions = [new_session(tenant=tenant) for tenant in TENANTS * 2]
        for new in self.sessions:
            self.agree("open", new)
        self.attempts: dict[int, Began] = {}

    def close(self) -> None:
        self.runner.run(self.redis.aclose())
        self.runner.close()
        self.raw.close()

    def agree(self, call: str, *arguments: Any) -> Any:
        next_ms()
        self.now += 1
        answers = [self._outcome(store, call, arguments) for store in (self.redis, self.memory)]
        assert comparable(answers[0]) == comparable(answers[1])
        assert_same_services(self.raw, self.memory.pool(POOL).services)
        return answers[0]

    def _outcome(self, store: Any, call: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.runner.run(getattr(store, call)(*arguments))
        except Refused as refused:
            return refused.reason

    def move(self, number: int, what: str, tokens: int) -> None:
        new, began = self.sessions[number], self.attempts.get(number)
        if what == "begin" or began is None:
            demand = Demand(1 + number % 2, tokens, 8 * tokens)
            step = f"step-{tokens % 2}-{self.now // 20}"
            asked = begin_request(new.session_id, step, tenant=new.tenant, demand=demand, priority=tokens % 2)
            answer = self.agree("begin", asked)
            if isinstance(answer, Began):
                self.attempts[number] = answer
            return
        session_id, place = new.session_id, reservation(began, tokens=tokens, priority=tokens % 2, waited_ms=0)
        if what == "commit":
            assert began.descriptor.attempt is not None
            step, output = began.descriptor.attempt.step_id, (7,) * tokens
            self.agree("commit", commit_request(session_id, began.ref, step, began.descriptor.head, output=output))
        elif what == "abort":
            self.agree("abort", session_id, began.ref, Done(tokens, tokens // 2))
        elif what == "renew":
            self.agree("renew", POOL, [RenewItem(session_id, began.ref)], LONG_MS)
        elif what == "hold":
            self.agree("hold", session_id, new.tenant, "grep", 1.0, None)
        else:
            self.agree(what, place)


def test_redis_and_memory_keep_the_same_counters_of_several_tenants(fresh_redis):
    @profile(60)
    @given(MOVES)
    def check(moves: list[tuple[int, str, int]]) -> None:
        stores = BothStores(fresh_redis)
        try:
            for move in moves:
                stores.move(*move)
        finally:
            stores.close()

    check()
