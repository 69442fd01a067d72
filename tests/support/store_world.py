"""The world of the store's state machine: gateways, workers and sessions on a real Redis, beside the model of them."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from redis_servers import RedisCluster, RedisServer
from roost.contract import loghash, names
from roost.contract.heads import AttemptRef, Head
from roost.contract.names import PoolKeys
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.redis_store import RedisStore, connect
from store_driver import LONG_MS, lease, new_session, next_ms, publish, publish_cached, redis_ms, reservations
from store_model import Session, StoreModel
from store_pool_model import Worker

POOLS = ("team/agents", "team/b")
TENANTS = ("acme", "other")
WORKERS = {"w1": (40, 1), "w2": (20, 1)}
REVISIONS = ("rev-1", "rev-2")
NO_AGING_MS = 10**12
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
        self.model = StoreModel()
        self.names: list[str] = []
        self.taken: list[Attempt] = []
        self.touched: set[str] = set()
        self.restarts = 0
        self.gateways = [self.loop.run(self.connect_gateway(twice)) for twice in (False, True)]

    async def connect_gateway(self, twice: bool) -> RedisStore:
        store = await connect(self.server.url, grace_ms=0, aging_ms=NO_AGING_MS)
        if twice:
            store._link.client = _Twice(store._link.client)  # type: ignore[assignment]
        return store

    def teardown(self) -> None:
        for store in self.gateways:
            self.loop.run(store.aclose())
        self.loop.close()
        self.raw.close()

    def agree(self, session_id: str, call: Any, expected: Callable[[], Any]) -> tuple[Any, Any]:
        """Both answer, or both refuse for the same reason; a refusal is answered by None."""
        next_ms(self.raw)
        self.model.clock += 1
        self.touched.add(session_id)
        wanted, refusal = outcome(expected)
        got, found = outcome(lambda: self.loop.run(call))
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

    def head(self, session_id: str, which: str, known: bool) -> tuple[Head | None, int]:
        """A head that a client may have, and its generation, should the client know that."""
        session = self.model.sessions.get(session_id)
        right = session.head if session else Head()
        generation = session.generation if session else 1
        if which == "former" and session and session.older:
            older = session.older[-1]
            return older[-1].head, generation - 1 if known else 0
        if which == "earlier" and session and session.older:
            return session.older[-1][0].head, generation - 1
        if which == "later":
            return right, generation + 1
        heads = {
            "none": None,
            "right": right,
            "empty": Head(),
            "other": Head(right.length, bytes(range(16))),
            "longer": Head(right.length + 3, bytes(16)),
        }
        return heads.get(which, right), generation if known else 0

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

    def worker(self, pool: str, worker: str, draining: bool, alive: bool, revision: str = REVISIONS[0]) -> None:
        capacity, running = WORKERS[worker]
        self.model.pool(pool).workers[worker] = Worker(capacity, running, alive, draining, revision)
        published = lease(
            worker, capacity_tokens=capacity, max_running=running, draining=draining, model_revision=revision
        )
        publish(self.raw, published, ms=LONG_MS if alive else -1, pool=pool)

    def cache(self, session_id: str, worker: str, cached: bool) -> None:
        """The worker publishes that it has the session cached, or that it has dropped it."""
        if session := self.model.sessions.get(session_id):
            publish_cached(self.raw, session_id, worker, len(session.log) if cached else 0)
            (session.cached.add if cached and session.log else session.cached.discard)(worker)

    def crash_gateway(self, gateway: int) -> None:
        """All that it knew is gone; its attempts stay live in Redis."""
        self.loop.run(self.gateways[gateway].aclose())
        self.gateways[gateway] = self.loop.run(self.connect_gateway(twice=gateway == 1))

    @invariant()
    def sessions_are_as_the_model_says(self) -> None:
        for session_id in self.touched & set(self.names):
            session = self.model.sessions.get(session_id)
            if session is None:
                assert outcome(lambda s=session_id: self.loop.run(self.gateways[0].get(s, TENANTS[0])))[1]
            else:
                self._compare(session_id, session)

    def _compare(self, session_id: str, session: Session) -> None:
        store, live = self.gateways[0], session.attempt
        got = self.loop.run(store.get(session_id, TENANTS[0]))
        seen = (got.head, got.steps, got.epoch, got.owner, got.state == "closed", got.hold and got.hold.tool)
        assert seen == (session.head, len(session.log), session.epoch, session.owner, session.closed, session.tool)
        assert (got.generation, got.prompt_tokens + got.output_tokens) == (session.generation, session.used)
        assert not session.log or got.model_revision == session.revision
        assert (got.former and (got.former.head, got.former.steps)) == (
            (session.older[-1][-1].head, len(session.older[-1])) if session.older else None
        )
        seen_live = got.attempt and (got.attempt.ref.nonce, got.attempt.step_id, got.attempt.seed)
        assert seen_live == (live and (live.nonce, live.step, live.seed))
        if live:
            assert (got.attempt.worker_id, got.attempt.lease_ms_left <= 0) == (live.worker, live.expired)
        for generation, steps in enumerate([*session.older, session.log], 1):
            log = self.loop.run(store.log(session_id, generation, 0, 99))
            assert [(entry.step_id, entry.head) for entry in log] == [(step.step, step.head) for step in steps]
            ids = self.loop.run(store.ids(session_id, generation, 0, 9999))
            assert list(loghash.unpack_ids(ids)) == [i for step in steps for i in (*step.prompt, *step.output)]

    @invariant()
    def the_ledgers_are_as_the_model_says(self) -> None:
        now = redis_ms(self.raw)
        for name in {session_id.rsplit("/", 1)[0] for session_id in self.touched if session_id}:
            keys, pool = PoolKeys(name), self.model.pool(name)
            kept, waiting = {}, {}
            for member, (tokens, expiry) in reservations(self.raw, name, summed=True).items():
                worker, nonce = member.split("|")
                kept[worker, bytes.fromhex(nonce)] = (tokens, expiry <= now)
            assert kept == pool.reservations
            members = set()
            for nonce, value in self.raw.hgetall(keys.waiters).items():
                priority, _, _, expiry, place = value.split(b":")
                line = place.split(b"|")[0].decode()
                waiting[bytes.fromhex(nonce.decode())] = (int(priority), int(expiry) <= now, line)
                members.add(place + b"|" + nonce)
            assert waiting == {nonce: (its.rank[0], its.expired, its.line) for nonce, its in pool.waiters.items()}
            assert set(self.raw.zrange(keys.lines, 0, -1)) == members
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


def outcome(call: Callable[[], Any]) -> tuple[Any, Reason | None]:
    try:
        return call(), None
    except Refused as error:
        return None, error.reason


def pair(ref: AttemptRef) -> tuple[int, bytes]:
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
