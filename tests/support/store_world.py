"""The world of the store's state machine: gateways, workers and sessions on a real Redis and on the store in memory."""

import asyncio
from dataclasses import astuple, replace
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from redis_servers import PATIENCE_SECONDS, RedisCluster, RedisServer
from roost.contract import names
from roost.contract.budgets import BudgetScope
from roost.contract.heads import AttemptRef, Head
from roost.contract.refused import Refused
from roost.store.budgets import NO_BUDGETS, Budget, BudgetRules, ExtendRequest, Spending
from roost.store.fork_records import CommitPoint, NewFork
from roost.store.keys import PoolKeys
from roost.store.memory import MemoryStore
from roost.store.records import RenewItem
from roost.store.redis_store import RedisStore, connect
from store_comparison import Twice, comparable, owner_of
from store_driver import (
    LONG_MS,
    assert_same_services,
    lease,
    live_sessions,
    live_target,
    migration,
    new_session,
    next_ms,
    publish,
    publish_cached,
    redis_ms,
    reservations,
)

POOLS = ("team/agents", "team/b")
TENANTS = ("acme", "other")
WORKERS = {"w1": (40, 1), "w2": (20, 1)}
REVISIONS = ("rev-1", "rev-2")
NO_AGING_MS = 10**12
TASK = "fix #12"
_BUDGETS = (
    Budget(BudgetScope.SESSION, "tokens", 12),
    Budget(BudgetScope.SESSION, "steps", 2),
    Budget(BudgetScope.TASK, "tokens", 25),
    Budget(BudgetScope.TASK, "steps", 4),
    Budget(BudgetScope.TASK, "gpu_us", 3_000_000),
    Budget(BudgetScope.ROLE, "tokens", 40, window_ms=10**15),
    Budget(BudgetScope.TENANT, "steps", 9, window_ms=10**15),
)
"""With windows that do not end during a test."""
BUDGET_RULES = (
    NO_BUDGETS,
    BudgetRules(TENANTS[0], "coder", repeats=3, stops=True),
    BudgetRules(TENANTS[0], "coder", TASK, repeats=2, task_repeats=4),
    BudgetRules(TENANTS[0], "coder", TASK, _BUDGETS, grace_steps=0),
    BudgetRules(TENANTS[0], "coder", TASK, _BUDGETS, asks=True, grace_steps=2, warn_percent=30),
    BudgetRules(TENANTS[0], "coder", "", _BUDGETS[:3]),
)
Attempt = tuple[str, AttemptRef, str]


class StoreWorld(RuleBasedStateMachine):
    server: RedisServer | RedisCluster
    most_restarts = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.raw = self.server.client()
        for shard in getattr(self.server, "shards", [self.server]):
            with shard.client() as client:
                client.flushall()
        self.now = 1
        self.memory = MemoryStore(lambda: self.now, aging_ms=NO_AGING_MS, adapt_ms=0)
        self.names: list[str] = []
        self.taken: list[Attempt] = []
        self.touched: set[str] = set()
        self.expired: set[str] = set()
        """Sessions that `expire` has ended, without their pool."""
        self.restarts = 0
        self.gateways = [self.loop.run(self.connect_gateway(twice)) for twice in (False, True)]

    async def connect_gateway(self, twice: bool) -> RedisStore:
        store = await connect(
            self.server.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0, aging_ms=NO_AGING_MS, adapt_ms=0
        )
        if twice:
            store._link.script_runner = Twice(store._link.script_runner)
        return store

    def teardown(self) -> None:
        self._delete_everything()
        for store in self.gateways:
            self.loop.run(store.aclose())
        self.loop.close()
        self.raw.close()

    def _delete_everything(self) -> None:
        """Nothing is left when all sessions are deleted: what forks needed went with the last of them."""
        for session_id, session in list(self.memory.sessions.items()):
            if session.is_gone(self.now):
                continue
            if session.attempt is not None:
                self.agree(0, "abort", session_id, session.attempt.ref)
            self.agree(0, "delete", session_id, TENANTS[0])
        kinds = ("steps", "family", "log:*", "ids:*", "forks:*")
        left = {key for kind in kinds for key in self.raw.scan_iter(f"roost:*:s:*:{kind}")}
        waiting = {owner_of(key) for key in left if self._is_for_expired_forks(key)}
        assert {key for key in left if owner_of(key) not in waiting} == set()
        for name in POOLS:
            gone = {session_id.rpartition("/")[2] for session_id in self.names}
            left_live = set(live_sessions(self.raw, name))
            assert left_live <= self.expired & gone, "only sessions that nobody could delete are live"

    def _is_for_expired_forks(self, key: bytes) -> bool:
        """Whether a key says that forks that `expire` has ended need something until later: time does not pass here."""
        if self.raw.type(key) != b"zset":
            return False
        users = {member.decode().rpartition(":")[2] for member in self.raw.zrange(key, 0, -1)}
        return users <= self.expired

    def agree(self, gateway: int, call: str, *arguments: Any, touches: str = "") -> Any:
        """A call moves the clocks, and both stores answer the same. A refusal is answered by None."""
        next_ms()
        self.now += 1
        self.touched.add(touches)
        return self.same(gateway, call, *arguments)

    def same(self, gateway: int, call: str, *arguments: Any) -> Any:
        """Both stores answer the same, or refuse with the same words."""
        expected, expected_refusal = self._outcome(self.memory, call, arguments)
        answer, refusal = self._outcome(self.gateways[gateway], call, arguments)
        assert refusal == expected_refusal
        assert comparable(answer) == comparable(expected)
        return answer

    def _outcome(self, store: Any, call: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        try:
            return self.loop.run(getattr(store, call)(*arguments)), None
        except Refused as error:
            return None, (error.reason, error.message, error.metadata, error.retry_seconds is None)

    def session(self, which: int) -> str:
        """A session, now and then one that was deleted."""
        some = self.names if which == 0 or not self.memory.sessions else list(self.memory.sessions)
        return some[which % len(some)]

    def attempt(self, which: int, stale: bool) -> Attempt:
        """An attempt that somebody believes in: a live one, or any that ever was."""
        live = {session.attempt.ref for session in self.memory.sessions.values() if session.attempt}
        some = [attempt for attempt in self.taken if stale or attempt[1] in live] or self.taken
        return some[which % len(some)]

    def head(self, session_id: str, which: str, known: bool) -> tuple[Head | None, int]:
        """A head that a client may have, and its generation, should the client know that."""
        session = self.memory.sessions.get(session_id)
        right, logs = (session.record.head, session.logs) if session else (Head(), [])
        generation = max(1, len(logs))
        if which in ("former", "earlier") and generation > 1:
            former = logs[-2].entries[-1 if which == "former" else 0].head
            return former, generation - 1 if known or which == "earlier" else 0
        if which == "later":
            return right, generation + 1
        heads = {
            "none": None,
            "empty": Head(),
            "other": Head(right.length, bytes(range(16))),
            "longer": Head(right.length + 3, bytes(16)),
        }
        return heads.get(which, right), generation if known else 0

    def renew(self, gateway: int, attempt: Attempt, expired: bool) -> None:
        """One batch with the pool's last attempts. With `expired`, as if their gateways had died and their leases had
        run out."""
        pool = attempt[0].rsplit("/", 1)[0]
        batch = [other for other in self.taken[-2:] if other[0].startswith(pool + "/")] + [attempt]
        items = [RenewItem(session_id, ref) for session_id, ref, _ in batch]
        self.agree(gateway, "renew", pool, items, 0 if expired else LONG_MS, touches=attempt[0])
        self.touched |= {session_id for session_id, _, _ in batch}

    def fold(self, gateway: int, attempt: Attempt, wanted: int) -> None:
        """By an attempt that is live or was, of `wanted` steps if there are so many."""
        session_id, ref, step = attempt
        session = self.memory.sessions.get(session_id)
        if session is None or session.is_gone(self.now) or not session.record.steps:
            return
        record, folded = session.record, min(wanted, session.record.steps)
        entries = self.loop.run(self.gateways[gateway].log(session_id, record.generation, 0, 99))
        renewed = [replace(entries[0], step_id=step), *entries[folded:]]
        request = migration(session_id, ref, record.head, renewed, record.model_revision)
        self.agree(
            gateway, "migrate", replace(request, folded=folded, renews_budget=wanted % 2 == 1), touches=session_id
        )

    def extend_budget(
        self, gateway: int, session_id: str, tenant: str, scope: BudgetScope, added: int, request: str
    ) -> None:
        more = Spending(5 * added, 10**6 * added, added, 0)
        extension = ExtendRequest(session_id, tenant, scope, TASK, more, request, task_ttl_ms=0)
        self.agree(gateway, "extend", extension, touches=session_id)

    def open(self, gateway: int, pool: str, request: str) -> None:
        new = new_session(names.new_session_id(pool), tenant=TENANTS[0], request_id=request)
        opened = self.agree(gateway, "open", new, touches=new.session_id).session_id
        if opened == new.session_id:
            self.names.append(opened)
        else:
            assert request

    def worker(self, pool: str, worker: str, draining: bool, alive: bool, revision: str = REVISIONS[0]) -> None:
        capacity, running = WORKERS[worker]
        published = lease(
            worker, capacity_tokens=capacity, max_running=running, draining=draining, model_revision=revision
        )
        self.memory.publish(pool, published, LONG_MS if alive else -1)
        publish(self.raw, published, ms=LONG_MS if alive else -1, pool=pool)

    def cache(self, session_id: str, worker: str, cached: bool) -> None:
        """The worker publishes that it has the session cached, or that it has dropped it."""
        if session := self.memory.sessions.get(session_id):
            tokens = session.record.steps if cached else 0
            warm = session.record.head.length // 2
            self.memory.publish_cached(session_id, worker, tokens, warm)
            publish_cached(self.raw, session_id, worker, tokens, warm)

    def fork_session(self, gateway: int, other: str, tenant: str, place: str, request: str) -> str | None:
        """Branches a session off another one; the name of the new one, or None when both stores refuse it."""
        new = NewFork(names.new_session_id(other.rsplit("/", 1)[0]), other, tenant, self._point(other, place), "", {})
        new = replace(new, request_id=request)
        fork = self.agree(gateway, "fork", new, touches=new.session_id)
        self.touched.add(other)
        if fork is None or fork.session_id != new.session_id:
            assert fork is None or request
            return None
        self.names.append(new.session_id)
        return new.session_id

    def _point(self, session_id: str, place: str) -> CommitPoint | None:
        session = self.memory.sessions.get(session_id)
        if place == "head" or session is None:
            return None
        record = session.record
        steps = max(0, record.steps - 1) if place == "earlier" else record.steps
        head = replace(session.logs[-1].entries[steps - 1].head if steps else Head(), generation=record.generation)
        if place == "empty":
            return CommitPoint(Head(generation=record.generation), 0)
        if place == "former":
            return CommitPoint(replace(head, generation=record.generation + 1), steps)
        if place == "longer":
            return CommitPoint(replace(head, length=head.length + 3), steps + 1)
        if place == "other":
            head = replace(head, log_hash=bytes(range(16)))
        return CommitPoint(head, steps)

    def expire(self, session_id: str) -> None:
        """The session's idle time is over; its forks live on."""
        session = self.memory.sessions.get(session_id)
        if session is None or session.attempt is not None:
            return
        session.change(expires_ms=self.now)
        self.expired.add(session_id.rpartition("/")[2])
        pool, generations = PoolKeys(session_id.rsplit("/", 1)[0]), len(session.logs)
        self.raw.delete(pool.steps(session_id))
        if self.raw.exists(pool.family(session_id)):
            self.raw.hset(pool.session(session_id), "expires", 1)
        else:
            self.raw.delete(pool.session(session_id))
        for generation in range(1, generations + 1):
            if not self.raw.exists(pool.forks(session_id, generation)):
                self.raw.delete(pool.log(session_id, generation), pool.ids(session_id, generation))
        self.touched.add(session_id)

    def lapse(self, session_id: str) -> None:
        """The time of a live session is over; the next who asks notices."""
        keys, live = PoolKeys(session_id.rsplit("/", 1)[0]), self.memory.pool(session_id.rsplit("/", 1)[0]).working_set
        name = session_id.rpartition("/")[2]
        if name in live.live:
            entry = live.live[name]
            live.put(name, entry.worker, entry.footprint, 0, promised=entry.promised)
            self.raw.zadd(keys.live_ends, {name: 0})

    def lose_sums(self, pool: str, *, shares: bool) -> None:
        """A key is gone that the working set's sums are in, as where Redis evicts keys. The next reading mends it."""
        keys = PoolKeys(pool)
        target = self.raw.hget(keys.live_sums, "*")
        self.raw.delete(keys.live_shares if shares else keys.live_sums)
        if target:
            self.raw.hset(keys.live_sums, "*", target)
        for store in (self.gateways[0], self.memory):
            self.loop.run(store.workers(pool))
        self.touched.add(f"{pool}/")

    def crash_gateway(self, gateway: int) -> None:
        """All that it knew is gone; its attempts stay live in Redis."""
        self.loop.run(self.gateways[gateway].aclose())
        self.gateways[gateway] = self.loop.run(self.connect_gateway(twice=gateway == 1))

    @invariant()
    def the_stores_have_the_same_sessions(self) -> None:
        for session_id in self.touched & set(self.names):
            descriptor = self.same(0, "get", session_id, TENANTS[0])
            for generation in range(1, descriptor.generation + 1 if descriptor else 1):
                for entry in self.same(0, "log", session_id, generation, 0, 99):
                    self.same(0, "step_place", session_id, entry.step_id)
                self.same(0, "ids", session_id, generation, 0, 9999)

    @invariant()
    def the_stores_have_the_same_ledgers(self) -> None:
        now = redis_ms(self.raw)
        for name in {session_id.rsplit("/", 1)[0] for session_id in self.touched if session_id}:
            keys, pool = PoolKeys(name), self.memory.pool(name)
            reserved = {
                (*member.split("|"), tokens, expiry <= now)
                for member, (tokens, expiry) in reservations(self.raw, name, summed=True).items()
            }
            assert reserved == {
                (worker, nonce.hex(), claim.tokens, claim.expiry_ms <= self.now)
                for (worker, nonce), claim in pool.claims.items()
            }
            waiting, members = set(), set()
            for nonce, value in self.raw.hgetall(keys.waiters).items():
                priority, _, _, expiry, place = value.split(b":")
                line, rank, tenant = place.decode().split("|")
                waiting.add((nonce.decode(), int(priority), int(expiry) <= now, line, tenant))
                members.add(f"{line}|{rank}|{nonce.decode()}".encode())
            assert waiting == {
                (nonce.hex(), waiter.priority, waiter.expiry_ms <= self.now, waiter.line, waiter.tenant)
                for nonce, waiter in pool.waiters.items()
            }
            assert set(self.raw.zrange(keys.lines, 0, -1)) == members
            assert live_sessions(self.raw, name) == {
                short_name: (live.worker, live.footprint, live.promised)
                for short_name, live in pool.working_set.live.items()
            }
            pool.working_set.check_integrity()
            assert_same_services(self.raw, pool.services, name)
            assert live_target(self.raw, name) == astuple(pool.working_set.target)[:3]
        self.touched.clear()

    def look(self, pool: str) -> None:
        """What anybody may ask at any time: the tenants' lists, and the workers with what is reserved at them."""
        for tenant in TENANTS:
            self.same(1, "list_sessions", pool, tenant, "", 99)
        self.same(1, "residency", pool, sorted(WORKERS), self.names)
        for worker in WORKERS:
            self.same(1, "look", pool, worker, next(name for name in self.names if name.startswith(pool)))
        views = [self.loop.run(store.workers(pool)) for store in (self.gateways[1], self.memory)]
        by_name = [sorted(both, key=lambda view: view.lease.worker_id) for both in views]
        assert comparable(by_name[0]) == comparable(by_name[1])
