"""Random interleavings of two gateways, against a model in plain Python, on one Redis and on three shards.

Every script of the second gateway is sent twice, as redis-py does when a reply was lost. Leases run out when the
machine says so, by a renewal of no length.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from redis_servers import RedisCluster, RedisServer
from roost.contract import loghash, names
from roost.contract.names import PoolKeys
from roost_gateway.store.records import (
    AlreadyCommitted,
    AttemptRef,
    LogHead,
    Refusal,
    RefusedError,
    RenewItem,
    Reservation,
)
from roost_gateway.store.redis_store import RedisStore, connect
from store_driver import (
    LONG_MS,
    begin_request,
    commit_request,
    digest,
    lease,
    new_session,
    next_ms,
    publish,
    redis_ms,
)
from store_model import Session, Step, StoreModel, Taken, Worker

POOLS = ("team/agents", "team/b")
TENANTS = ("acme", "other")
WORKERS = {"w1": (40, 1), "w2": (20, 1)}
NO_AGING_MS = 10**12
RARELY = st.sampled_from((False,) * 6 + (True,))
MOSTLY = st.sampled_from((True,) * 4 + (False,))
WORKER = st.sampled_from(sorted(WORKERS))
CLASSES = st.integers(-1, 2)
GATEWAYS = st.sampled_from((0, 1))
TENANT = st.sampled_from((TENANTS[0],) * 9 + TENANTS[1:])
WHICH = st.integers(0, 5)
STEPS = st.sampled_from(("a", "b", "c", "d"))
IDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4).map(tuple)
HEADS = st.sampled_from(("none", *(("right",) * 8), "empty", "other", "longer"))
TOKENS = st.integers(1, 30)
OTHER_CALLS = st.sampled_from((*(("hold",) * 4), *(("evict",) * 3), "close", "delete"))
Ids = tuple[int, ...]
Attempt = tuple[str, AttemptRef, str]


class StoreMachine(RuleBasedStateMachine):
    server: RedisServer | RedisCluster
    most_restarts = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.raw = self.server.client()
        for shard in getattr(self.server, "shards", [self.server]):
            with shard.client() as client:
                client.flushall()
        self.model = StoreModel()
        self.names: list[str] = []
        self.taken: list[Attempt] = []
        self.touched: set[str] = set()
        self.restarts = 0
        self.gateways = [self.loop.run(self._connect(twice)) for twice in (False, True)]

    async def _connect(self, twice: bool) -> RedisStore:
        store = await connect(self.server.url, grace_ms=0, aging_ms=NO_AGING_MS)
        if twice:
            store._link.client = _Twice(store._link.client)  # type: ignore[assignment]
        return store

    def teardown(self) -> None:
        for store in self.gateways:
            self.loop.run(store.aclose())
        self.loop.close()
        self.raw.close()

    @initialize()
    def begin_with_sessions_and_workers(self) -> None:
        for pool in POOLS:
            self.open(0, pool, "")
            self.open(0, pool, "")
            self.open(1, pool, "r1")
            for worker in WORKERS:
                self.worker(pool, worker, False, True)

    def agree(self, session_id: str, call: Any, expected: Callable[[], Any]) -> tuple[Any, Any]:
        """Both answer, or both refuse for the same reason; a refusal is answered by None."""
        next_ms(self.raw)
        self.model.clock += 1
        self.touched.add(session_id)
        wanted, refusal = _outcome(expected)
        got, found = _outcome(lambda: self.loop.run(call))
        assert found == refusal
        return got, wanted

    def session(self, which: int) -> str:
        """A session, now and then one that was deleted."""
        some = self.names if which == 0 or not self.model.sessions else list(self.model.sessions)
        return some[which % len(some)]

    def attempt(self, which: int, stale: bool) -> Attempt:
        """An attempt that somebody believes in: a live one, or any that ever was."""
        live = {s.attempt.nonce for s in self.model.sessions.values() if s.attempt}
        found = [attempt for attempt in self.taken if stale or attempt[1].nonce in live] or self.taken
        return found[which % len(found)]

    def head(self, session_id: str, which: str) -> LogHead | None:
        session = self.model.sessions.get(session_id)
        right = session.head if session else LogHead()
        return {
            "none": None,
            "right": right,
            "empty": LogHead(),
            "other": LogHead(right.length, bytes(range(16))),
            "longer": LogHead(right.length + 3, bytes(16)),
        }[which]

    def open(self, gateway: int, pool: str, request: str) -> None:
        new = new_session(names.new_session_id(pool), tenant=TENANTS[0], request_id=request)
        descriptor = self.loop.run(self.gateways[gateway].open(new))
        if descriptor.session_id != new.session_id:  # the request had made a session before
            assert request
            assert descriptor.session_id in self.model.sessions
            return
        self.model.sessions[new.session_id] = Session(pool, TENANTS[0])
        self.names.append(new.session_id)
        self.touched.add(new.session_id)

    def worker(self, pool: str, worker: str, draining: bool, alive: bool) -> None:
        capacity, running = WORKERS[worker]
        self.model.pool(pool).workers[worker] = Worker(capacity, running, alive, draining)
        published = lease(worker, capacity_tokens=capacity, max_running=running, draining=draining)
        publish(self.raw, published, ms=LONG_MS if alive else -1, pool=pool)

    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        tenant=TENANT,
        step=STEPS,
        changed=RARELY,
        expected=HEADS,
        seed=st.integers(0, 2**64 - 1),
        expired=RARELY,
        tokens=TOKENS,
        limits=st.sampled_from(((0, 0, 0),) * 6 + ((25, 0, 0), (0, 2, 0), (0, 0, 30))),
        priority=CLASSES,
        then=st.sampled_from(("", "reserve", "reserve", "commit", "commit")),
    )
    def begin(self, gateway, which, tenant, step, changed, expected, seed, expired, tokens, limits, priority, then):
        session_id, content = self.session(which), digest(step + "!" * changed)
        head, nonce = self.head(session_id, expected), self.model.clock.to_bytes(16, "big")
        budget, max_steps, most = limits
        request = begin_request(
            session_id,
            step,
            tenant=tenant,
            digest=content,
            expected_head=head,
            nonce=nonce,
            seed=seed,
            lease_ms=0 if expired else LONG_MS,
            new_tokens=tokens,
            budget_tokens=budget,
            max_steps=max_steps,
            max_session_tokens=most,
            priority=priority,
        )
        arguments = (session_id, tenant, step, content, head, nonce, seed, expired, tokens, budget, max_steps, most)
        got, wanted = self.agree(
            session_id, self.gateways[gateway].begin(request), lambda: self.model.begin(*arguments, priority)
        )
        if isinstance(wanted, Step):
            assert isinstance(got, AlreadyCommitted)
            stored = tuple(loghash.unpack_ids(got.prompt_ids)), tuple(loghash.unpack_ids(got.output_ids))
            assert stored == (wanted.prompt, wanted.output)
        elif isinstance(wanted, Taken):
            fenced = got.fenced and (got.fenced.ref.epoch, got.fenced.ref.nonce, got.fenced.worker_id)
            assert Taken(got.ref.epoch, got.seed, got.reserved, fenced) == wanted
            self.taken.append((session_id, got.ref, step))
            self._go_on(self.gateways[gateway], self.taken[-1], then, tokens, priority)

    def _go_on(self, store: RedisStore, attempt: Attempt, then: str, tokens: int, priority: int) -> None:
        if then in ("reserve", "commit"):
            self._reserve(store, attempt, "w1", tokens, priority)
        if then == "commit":
            self._commit(store, attempt, (tokens,), (priority + 7, 2**32 - 1))

    @precondition(lambda self: self.taken)
    @rule(gateway=GATEWAYS, which=WHICH, stale=RARELY, worker=WORKER, tokens=TOKENS, priority=CLASSES)
    def reserve(self, gateway: int, which: int, stale: bool, worker: str, tokens: int, priority: int) -> None:
        self._reserve(self.gateways[gateway], self.attempt(which, stale), worker, tokens, priority)

    def _reserve(self, store: RedisStore, attempt: Attempt, worker: str, tokens: int, priority: int) -> None:
        session_id, ref, _ = attempt
        got, wanted = self.agree(
            session_id,
            store.reserve(self._reservation(attempt, worker, tokens, priority)),
            lambda: self.model.reserve(session_id, *_pair(ref), worker, tokens, priority),
        )
        assert got == wanted

    def _reservation(self, attempt: Attempt, worker: str, tokens: int, priority: int) -> Reservation:
        session_id, ref, _ = attempt
        return Reservation(session_id.rsplit("/", 1)[0], session_id, ref, worker, tokens, priority, 0, LONG_MS)

    @precondition(lambda self: self.taken)
    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        stale=RARELY,
        how=st.sampled_from((*(("commit",) * 4), "expire", "expire", "renew", "abort", "release")),
        prompt=IDS,
        output=IDS,
    )
    def finish(self, gateway: int, which: int, stale: bool, how: str, prompt: Ids, output: Ids) -> None:
        """By whoever still believes in the attempt, also long after it was committed, fenced or deleted."""
        attempt, store = self.attempt(which, stale), self.gateways[gateway]
        session_id, ref, _ = attempt
        if how == "commit":
            self._commit(store, attempt, prompt, output)
        elif how in ("renew", "expire"):
            self.renew(store, attempt, how == "expire")
        elif how == "abort":
            self.agree(session_id, store.abort(session_id, ref), lambda: self.model.abort(session_id, *_pair(ref)))
        else:
            worker = sorted(WORKERS)[which % 2]
            asked = self._reservation(attempt, worker, 1, 0)
            self.agree(session_id, store.release(asked), lambda: self.model.release(session_id, ref.nonce, worker))

    def _commit(self, store: RedisStore, attempt: Attempt, prompt: Ids, output: Ids) -> None:
        session_id, ref, step = attempt
        session = self.model.sessions.get(session_id)
        before = session.head if session else LogHead()
        owner = (session and session.attempt and session.attempt.worker) or "w1"
        request = commit_request(session_id, ref, step, before, prompt, output, owner=owner)
        got, wanted = self.agree(
            session_id,
            store.commit(request),
            lambda: self.model.commit(session_id, *_pair(ref), step, prompt, output),
        )
        if got:
            assert got.index == wanted
            assert got.head == self.model.sessions[session_id].log[wanted].head

    def renew(self, store: RedisStore, attempt: Attempt, expired: bool) -> None:
        """One batch with the pool's last attempts. With `expired`, as if their gateways had died and their leases had
        run out."""
        pool = attempt[0].rsplit("/", 1)[0]
        batch = [other for other in self.taken[-2:] if other[0].startswith(pool + "/")] + [attempt]
        got, wanted = self.agree(
            attempt[0],
            store.renew(pool, [RenewItem(s, ref) for s, ref, _ in batch], 0 if expired else LONG_MS),
            lambda: [self.model.renew(s, *_pair(ref), expired) for s, ref, _ in batch],
        )
        assert got == wanted
        self.touched |= {session_id for session_id, _, _ in batch}

    @rule(gateway=GATEWAYS, which=WHICH, tenant=TENANT, how=OTHER_CALLS, expected=HEADS)
    def hold_evict_close_or_delete(self, gateway: int, which: int, tenant: str, how: str, expected: str) -> None:
        session_id, store = self.session(which), self.gateways[gateway]
        if how == "hold":
            head = self.head(session_id, expected)
            call, model = store.hold(session_id, tenant, "grep", 1.5, head), (session_id, tenant, "grep", head)
        else:
            call, model = getattr(store, how)(session_id, tenant), (session_id, tenant)
        got, wanted = self.agree(session_id, call, lambda: getattr(self.model, how)(*model))
        if got is not None and how in ("evict", "delete"):
            assert (got[1] if how == "evict" else got) == wanted

    def crash_gateway(self, gateway: int) -> None:
        """All that it knew is gone; its attempts stay live in Redis."""
        self.loop.run(self.gateways[gateway].aclose())
        self.gateways[gateway] = self.loop.run(self._connect(twice=gateway == 1))

    @rule(
        what=st.sampled_from(("open", "worker", "worker", "crash", "look")),
        gateway=GATEWAYS,
        pool=st.sampled_from(POOLS),
        request=st.sampled_from(("", "r1", "r2")),
        worker=WORKER,
        draining=RARELY,
        alive=MOSTLY,
    )
    def around(self, what, gateway, pool, request, worker, draining, alive) -> None:
        if what == "open":
            self.open(gateway, pool, request)
        elif what == "worker":
            self.worker(pool, worker, draining, alive)
        elif what == "crash":
            self.crash_gateway(gateway)
        else:
            self.look(pool)

    @precondition(lambda self: self.restarts < self.most_restarts)
    @rule()
    def restart_redis(self) -> None:
        self.restarts += 1
        self.server.restart()
        self.raw.close()
        self.raw = self.server.client()
        self.touched |= set(self.names)

    @invariant()
    def sessions_are_as_the_model_says(self) -> None:
        for session_id in self.touched & set(self.names):
            session = self.model.sessions.get(session_id)
            if session is None:
                assert _outcome(lambda s=session_id: self.loop.run(self.gateways[0].get(s, TENANTS[0])))[1]
            else:
                self._compare(session_id, session)

    def _compare(self, session_id: str, session: Session) -> None:
        store, live = self.gateways[0], session.attempt
        got = self.loop.run(store.get(session_id, TENANTS[0]))
        seen = (got.head, got.steps, got.epoch, got.owner, got.state == "closed", got.hold and got.hold.tool)
        assert seen == (session.head, len(session.log), session.epoch, session.owner, session.closed, session.tool)
        seen_live = got.attempt and (got.attempt.ref.nonce, got.attempt.step_id, got.attempt.seed)
        assert seen_live == (live and (live.nonce, live.step, live.seed))
        if live:
            assert (got.attempt.worker_id, got.attempt.lease_ms_left <= 0) == (live.worker, live.expired)
        log = self.loop.run(store.log(session_id, 1, 0, 99))
        assert [(entry.step_id, entry.head) for entry in log] == [(step.step, step.head) for step in session.log]
        ids = self.loop.run(store.ids(session_id, 1, 0, session.head.length))
        assert list(loghash.unpack_ids(ids)) == [i for step in session.log for i in (*step.prompt, *step.output)]

    @invariant()
    def the_ledgers_are_as_the_model_says(self) -> None:
        now = redis_ms(self.raw)
        for name in {session_id.rsplit("/", 1)[0] for session_id in self.touched if session_id}:
            keys, pool = PoolKeys(name), self.model.pool(name)
            kept, waiting = {}, {}
            for member, value in self.raw.hgetall(keys.reservations).items():
                worker, nonce = member.decode().split("|")
                tokens, expiry = map(int, value.split(b":"))
                kept[worker, bytes.fromhex(nonce)] = (tokens, expiry <= now)
            assert kept == pool.reservations
            for nonce, value in self.raw.hgetall(keys.waiters).items():
                priority, _, _, expiry = map(int, value.split(b":"))
                waiting[bytes.fromhex(nonce.decode())] = (priority, expiry <= now)
            assert waiting == {nonce: (its.rank[0], its.expired) for nonce, its in pool.waiters.items()}
        self.touched.clear()

    def look(self, pool: str) -> None:
        """What anybody may ask at any time: the tenants' lists, and the workers with what is held against them."""
        mine = sorted(name for name in self.model.sessions if name.startswith(pool + "/"))
        store = self.gateways[1]
        assert [d.session_id for d in self.loop.run(store.list_sessions(pool, TENANTS[0], "", 99))] == mine
        assert self.loop.run(store.list_sessions(pool, TENANTS[1], "", 99)) == []
        its = self.model.pool(pool)
        held = {view.lease.worker_id: view for view in self.loop.run(store.workers(pool))}
        seen = {worker: (view.reserved_tokens, view.reserved_attempts) for worker, view in held.items()}
        assert seen == {worker: its.held(worker) for worker in its.workers if its.alive(worker)}


def _outcome(call: Callable[[], Any]) -> tuple[Any, Refusal | None]:
    try:
        return call(), None
    except RefusedError as error:
        return None, error.refusal


def _pair(ref: AttemptRef) -> tuple[int, bytes]:
    return ref.epoch, ref.nonce


class _Twice:
    """A client that sends every script twice, as the library does after a lost reply."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def evalsha(self, *arguments: Any) -> Any:
        await self._client.evalsha(*arguments)
        return await self._client.evalsha(*arguments)

    async def eval(self, *arguments: Any) -> Any:
        await self._client.eval(*arguments)
        return await self._client.eval(*arguments)


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def machine(server: RedisServer | RedisCluster, restarts: int) -> type[StoreMachine]:
    return type("Machine", (StoreMachine,), {"server": server, "most_restarts": restarts})


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


def test_store_and_model_agree_on_one_redis_that_is_killed_now_and_then(fresh_redis):
    run(machine(fresh_redis, restarts=2), settings=profile(40))


def test_store_and_model_agree_on_three_shards(cluster):
    run(machine(cluster, restarts=0), settings=profile(30))


def test_store_and_model_agree_on_three_shards_that_are_killed(cluster):
    run(machine(cluster, restarts=1), settings=profile(3))
