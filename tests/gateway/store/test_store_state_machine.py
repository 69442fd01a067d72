"""Random interleavings of two gateways, against a model in plain Python, on one Redis and on three shards.

Every script of the second gateway is sent twice, as redis-py does when a reply was lost. Leases run out when the
machine says so, by a renewal of no length.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from redis_servers import RedisCluster, RedisServer
from roost.contract import loghash
from roost.contract.heads import Head
from roost.store.records import AlreadyCommitted, RenewItem, Reservation
from roost.store.redis_store import RedisStore
from store_driver import LONG_MS, REVISION, begin_request, commit_request, digest, migration
from store_model import Step, Taken
from store_world import POOLS, REVISIONS, TENANTS, WORKERS, Attempt, StoreWorld, pair

RARELY = st.sampled_from((False,) * 6 + (True,))
MOSTLY = st.sampled_from((True,) * 4 + (False,))
WORKER = st.sampled_from(sorted(WORKERS))
CLASSES = st.integers(-1, 2)
GATEWAYS = st.sampled_from((0, 1))
TENANT = st.sampled_from((TENANTS[0],) * 9 + TENANTS[1:])
WHICH = st.integers(0, 5)
STEPS = st.sampled_from(("a", "b", "c", "d"))
IDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4).map(tuple)
HEADS = st.sampled_from(("none", *(("right",) * 8), *(("former",) * 4), "earlier", "later", "empty", "other", "longer"))
TOKENS = st.integers(1, 30)
REVISION_NEEDED = st.sampled_from((REVISIONS[0], *REVISIONS, ""))
OTHER_CALLS = st.sampled_from((*(("hold",) * 4), *(("evict",) * 3), "close", "delete"))
Ids = tuple[int, ...]


class StoreMachine(StoreWorld):
    @initialize()
    def begin_with_sessions_and_workers(self) -> None:
        for pool in POOLS:
            self.open(0, pool, "")
            self.open(0, pool, "")
            self.open(1, pool, "r1")
            for worker in WORKERS:
                self.worker(pool, worker, False, True)

    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        tenant=TENANT,
        step=STEPS,
        changed=RARELY,
        expected=HEADS,
        known=MOSTLY,
        seed=st.integers(0, 2**64 - 1),
        expired=RARELY,
        tokens=TOKENS,
        limits=st.sampled_from(((0, 0, 0),) * 6 + ((25, 0, 0), (0, 2, 0), (0, 0, 30))),
        priority=CLASSES,
        needs=REVISION_NEEDED,
        then=st.sampled_from(("", "reserve", "reserve", "commit", "commit", "migrate")),
    )
    def begin(
        self,
        gateway,
        which,
        tenant,
        step,
        changed,
        expected,
        known,
        seed,
        expired,
        tokens,
        limits,
        priority,
        needs,
        then,
    ):
        session_id, content = self.session(which), digest(step + "!" * changed)
        (head, generation), nonce = self.head(session_id, expected, known), self.model.clock.to_bytes(16, "big")
        budget, max_steps, most = limits
        request = begin_request(
            session_id,
            step,
            tenant=tenant,
            digest=content,
            expected_head=head,
            expected_generation=generation,
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
            session_id,
            self.gateways[gateway].begin(request),
            lambda: self.model.begin(*arguments, priority, generation),
        )
        if isinstance(wanted, Step):
            assert isinstance(got, AlreadyCommitted)
            stored = tuple(loghash.unpack_ids(got.prompt_ids)), tuple(loghash.unpack_ids(got.output_ids))
            assert stored == (wanted.prompt, wanted.output)
        elif isinstance(wanted, Taken):
            fenced = got.fenced and (got.fenced.ref.epoch, got.fenced.ref.nonce, got.fenced.worker_id)
            assert Taken(got.ref.epoch, got.seed, got.reserved, fenced) == wanted
            self.taken.append((session_id, got.ref, step))
            self._go_on(self.gateways[gateway], self.taken[-1], then, tokens, priority, needs)

    def _go_on(self, store: RedisStore, attempt: Attempt, then: str, tokens: int, priority: int, needs: str) -> None:
        if then in ("reserve", "commit"):
            self._reserve(store, attempt, "w1", tokens, priority, needs)
        if then == "migrate":
            self._migrate(store, attempt, tokens)
        if then == "commit":
            self._commit(store, attempt, (tokens,), (priority + 7, 2**32 - 1))

    @precondition(lambda self: self.taken)
    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        stale=RARELY,
        worker=WORKER,
        tokens=TOKENS,
        priority=CLASSES,
        needs=REVISION_NEEDED,
    )
    def reserve(
        self, gateway: int, which: int, stale: bool, worker: str, tokens: int, priority: int, needs: str
    ) -> None:
        self._reserve(self.gateways[gateway], self.attempt(which, stale), worker, tokens, priority, needs)

    def _reserve(
        self, store: RedisStore, attempt: Attempt, worker: str, tokens: int, priority: int, needs: str
    ) -> None:
        session_id, ref, _ = attempt
        got, wanted = self.agree(
            session_id,
            store.reserve(self._reservation(attempt, worker, tokens, priority, needs)),
            lambda: self.model.reserve(session_id, *pair(ref), worker, tokens, priority, needs),
        )
        assert got == wanted

    def _reservation(self, attempt: Attempt, worker: str, tokens: int, priority: int, needs: str = "") -> Reservation:
        session_id, ref, _ = attempt
        return Reservation(session_id.rsplit("/", 1)[0], session_id, ref, worker, tokens, priority, 0, LONG_MS, needs)

    @precondition(lambda self: self.taken)
    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        stale=RARELY,
        how=st.sampled_from((*(("commit",) * 4), "expire", "expire", "renew", "abort", "release", "migrate")),
        prompt=IDS,
        output=IDS,
    )
    def finish(self, gateway: int, which: int, stale: bool, how: str, prompt: Ids, output: Ids) -> None:
        """By whoever still believes in the attempt, also long after it was committed, fenced or deleted."""
        attempt, store = self.attempt(which, stale), self.gateways[gateway]
        session_id, ref, _ = attempt
        if how == "commit":
            self._commit(store, attempt, prompt, output)
        elif how == "migrate":
            self._migrate(store, attempt, len(output))
        elif how in ("renew", "expire"):
            self.renew(store, attempt, how == "expire")
        elif how == "abort":
            self.agree(session_id, store.abort(session_id, ref), lambda: self.model.abort(session_id, *pair(ref)))
        else:
            worker = sorted(WORKERS)[which % 2]
            asked = self._reservation(attempt, worker, 1, 0)
            self.agree(session_id, store.release(asked), lambda: self.model.release(session_id, ref.nonce, worker))

    def _commit(self, store: RedisStore, attempt: Attempt, prompt: Ids, output: Ids) -> None:
        session_id, ref, step = attempt
        session = self.model.sessions.get(session_id)
        before = session.head if session else Head()
        owner = (session and session.attempt and session.attempt.worker) or "w1"
        revision = session.revision if session else REVISION
        request = commit_request(session_id, ref, step, before, prompt, output, owner=owner, model_revision=revision)
        got, wanted = self.agree(
            session_id,
            store.commit(request),
            lambda: self.model.commit(session_id, *pair(ref), step, prompt, output),
        )
        if got:
            assert got.index == wanted
            assert got.head == self.model.sessions[session_id].committed[step][1].head
            self.cache(session_id, self.model.sessions[session_id].owner, True)

    def _migrate(self, store: RedisStore, attempt: Attempt, extra: int) -> None:
        """To a revision of its own, by whoever believes in the attempt."""
        session_id, ref, _ = attempt
        session = self.model.sessions.get(session_id)
        if session is None or not session.log:
            return  # there is nothing to migrate
        generation, revision = session.generation, f"rev-{session.generation + 1}"
        entries = self.loop.run(store.log(session_id, generation, 0, 99))
        request = migration(session_id, ref, session.head, entries, revision, extra=extra % 4)
        got, wanted = self.agree(
            session_id,
            store.migrate(request),
            lambda: self.model.migrate(session_id, *pair(ref), revision, extra % 4),
        )
        assert got is None or got.generation == wanted

    def renew(self, store: RedisStore, attempt: Attempt, expired: bool) -> None:
        """One batch with the pool's last attempts. With `expired`, as if their gateways had died and their leases had
        run out."""
        pool = attempt[0].rsplit("/", 1)[0]
        batch = [other for other in self.taken[-2:] if other[0].startswith(pool + "/")] + [attempt]
        got, wanted = self.agree(
            attempt[0],
            store.renew(pool, [RenewItem(s, ref) for s, ref, _ in batch], 0 if expired else LONG_MS),
            lambda: [self.model.renew(s, *pair(ref), expired) for s, ref, _ in batch],
        )
        assert got == wanted
        self.touched |= {session_id for session_id, _, _ in batch}

    @rule(gateway=GATEWAYS, which=WHICH, tenant=TENANT, how=OTHER_CALLS, expected=HEADS)
    def hold_evict_close_or_delete(self, gateway: int, which: int, tenant: str, how: str, expected: str) -> None:
        session_id, store = self.session(which), self.gateways[gateway]
        if how == "hold":
            head, generation = self.head(session_id, expected, True)
            call = store.hold(session_id, tenant, "grep", 1.5, head, generation)
            model: tuple[Any, ...] = (session_id, tenant, "grep", head, generation)
        else:
            call, model = getattr(store, how)(session_id, tenant), (session_id, tenant)
        got, wanted = self.agree(session_id, call, lambda: getattr(self.model, how)(*model))
        if got is not None and how in ("evict", "delete"):
            assert (got[1] if how == "evict" else got) == wanted

    @rule(
        what=st.sampled_from(("open", "worker", "worker", "crash", "look", "cache", "drop")),
        gateway=GATEWAYS,
        which=WHICH,
        pool=st.sampled_from(POOLS),
        request=st.sampled_from(("", "r1", "r2")),
        worker=WORKER,
        draining=RARELY,
        alive=MOSTLY,
        revision=st.sampled_from(REVISIONS),
    )
    def around(self, what, gateway, which, pool, request, worker, draining, alive, revision) -> None:
        if what == "open":
            self.open(gateway, pool, request)
        elif what == "worker":
            self.worker(pool, worker, draining, alive, revision)
        elif what == "crash":
            self.crash_gateway(gateway)
        elif what in ("cache", "drop"):
            self.cache(self.session(which), worker, what == "cache")
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
    run(machine(fresh_redis, restarts=2), settings=profile(30))


def test_store_and_model_agree_on_three_shards(cluster):
    run(machine(cluster, restarts=0), settings=profile(20))


def test_store_and_model_agree_on_three_shards_that_are_killed(cluster):
    run(machine(cluster, restarts=1), settings=profile(3))
