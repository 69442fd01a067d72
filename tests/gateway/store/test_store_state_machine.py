"""Random interleavings of two gateways, against the store in memory, on one Redis and on three shards.

Every script of the second gateway runs twice, as after a lost reply. A lease ends by a renewal of no length.
"""

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from redis_servers import RedisCluster, RedisServer
from roost.contract.budgets import BudgetScope
from roost.contract.heads import Head
from roost.store.arguments import MOST_SHARED_LOGS
from roost.store.entry import Entry
from roost.store.records import Began, Reservation
from roost.store.service import Done
from roost.store.working_set import Admission
from store_comparison import profile
from store_driver import LONG_MS, REVISION, begin_request, commit_request, demand_of, digest, entry_of, migration
from store_world import BUDGET_RULES, POOLS, REVISIONS, TENANTS, WORKERS, Attempt, StoreWorld

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
PLACES = st.sampled_from((*(("head",) * 3), *(("earlier",) * 3), "empty", "former", "longer", "other"))
FORK_REQUESTS = st.sampled_from(("", "", "f1"))
ENTRIES = st.builds(Entry, st.sampled_from(Admission), st.sampled_from(("ab", "")), st.integers(0, 4))
RULES = st.sampled_from(BUDGET_RULES)
SCOPES = st.sampled_from((BudgetScope.SESSION, BudgetScope.TASK))
OTHER_CALLS = st.sampled_from((*(("hold",) * 6), *(("evict",) * 4), "close", "delete", "delete"))
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
        drops=st.booleans(),
        entry=ENTRIES,
        rules=RULES,
        then=st.sampled_from(("", "reserve", "commit", "commit", "migrate", "migrate and commit", "fold")),
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
        drops,
        entry,
        rules,
        then,
    ):
        session_id = self.session(which)
        head, generation = self.head(session_id, expected, known)
        budget, max_steps, most = limits
        request = begin_request(
            session_id,
            step,
            tenant=tenant,
            digest=digest(step + "!" * changed),
            expected_head=head,
            expected_generation=generation,
            nonce=self.now.to_bytes(16, "big"),
            seed=seed,
            lease_ms=0 if expired else LONG_MS,
            new_tokens=tokens,
            budget_tokens=budget,
            max_steps=max_steps,
            max_session_tokens=most,
            priority=priority,
            drops_thinking=drops,
            entry=entry,
            demand=demand_of(tokens),
            rules=rules,
            opens_turn=seed % 2 == 0,
            first_worker=("", *sorted(WORKERS))[seed % (1 + len(WORKERS))],
        )
        answer = self.agree(gateway, "begin", request, touches=session_id)
        if isinstance(answer, Began):
            self.taken.append((session_id, answer.ref, step))
            self._go_on(gateway, self.taken[-1], then, tokens, priority, "w1", needs)

    @rule(
        gateway=GATEWAYS,
        pool=st.sampled_from(POOLS),
        worker=WORKER,
        steps=st.lists(st.tuples(st.sampled_from((5, 15, 25)), CLASSES), min_size=2, max_size=3),
        needs=st.sampled_from((REVISIONS[0], "")),
    )
    def reserve_for_many(self, gateway: int, pool: str, worker: str, steps: list[tuple[int, int]], needs: str) -> None:
        """At one worker, so that some wait in its line."""
        sessions = [name for name in self.memory.sessions if name.startswith(pool + "/")]
        for session_id, (tokens, priority) in zip(sessions, steps, strict=False):
            self._step(gateway, session_id, "d", "reserve", tokens, priority, worker, needs)

    @rule(gateway=GATEWAYS, which=WHICH, tokens=TOKENS, commits=MOSTLY, expected=HEADS)
    def migrate_and_come_back(self, gateway: int, which: int, tokens: int, commits: bool, expected: str) -> None:
        session_id = self.session(which)
        self._step(gateway, session_id, f"{self.now}", "commit", tokens)
        self._step(gateway, session_id, f"{self.now}", "migrate and commit" if commits else "migrate", tokens)
        head = self.head(session_id, expected, True)
        self.agree(gateway, "hold", session_id, TENANTS[0], "grep", 1.5, *head, touches=session_id)

    def _step(
        self,
        gateway: int,
        session_id: str,
        step: str,
        then: str,
        tokens: int,
        priority: int = 1,
        worker: str = "w1",
        needs: str = "",
    ) -> None:
        nonce = self.now.to_bytes(16, "big")
        more = {"nonce": nonce, "seed": 1, "priority": priority, "new_tokens": tokens, "entry": entry_of(tokens)}
        request = begin_request(session_id, step, demand=demand_of(tokens), **more)
        if isinstance(answer := self.agree(gateway, "begin", request, touches=session_id), Began):
            self.taken.append((session_id, answer.ref, step))
            self._go_on(gateway, self.taken[-1], then, tokens, priority, worker, needs)

    def _go_on(
        self, gateway: int, attempt: Attempt, then: str, tokens: int, priority: int, worker: str, needs: str
    ) -> None:
        if then in ("reserve", "commit"):
            self._reserve(gateway, attempt, worker, tokens, priority, needs)
        if "migrate" in then:
            self._migrate(gateway, attempt, tokens)
        if then == "fold":
            self.fold(gateway, attempt, tokens)
        if "commit" in then:
            self._commit(gateway, attempt, (tokens,), (priority + 7, 2**32 - 1))

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
        self._reserve(gateway, self.attempt(which, stale), worker, tokens, priority, needs)

    def _reserve(self, gateway: int, attempt: Attempt, worker: str, tokens: int, priority: int, needs: str) -> None:
        self.agree(gateway, "reserve", self._reservation(attempt, worker, tokens, priority, needs), touches=attempt[0])

    def _reservation(self, attempt: Attempt, worker: str, tokens: int, priority: int, needs: str = "") -> Reservation:
        session_id, ref, _ = attempt
        pool, entry = session_id.rsplit("/", 1)[0], entry_of(tokens + priority)
        lost = max(0, (tokens + priority) % 4 - 2)
        return Reservation(pool, session_id, ref, worker, tokens, priority, 0, LONG_MS, needs, entry, lost)

    @precondition(lambda self: self.taken)
    @rule(
        gateway=GATEWAYS,
        which=WHICH,
        stale=RARELY,
        how=st.sampled_from(
            (*(("commit",) * 4), "expire", "expire", "renew", "abort", "release", "migrate", "fold", "quarantine")
        ),
        prompt=IDS,
        ids=IDS,
    )
    def finish(self, gateway: int, which: int, stale: bool, how: str, prompt: Ids, ids: Ids) -> None:
        """By whoever still believes in the attempt, also long after it was committed, fenced or deleted."""
        session_id, ref, _ = attempt = self.attempt(which, stale)
        if how == "commit":
            self._commit(gateway, attempt, prompt, ids)
        elif how == "migrate":
            self._migrate(gateway, attempt, len(ids))
        elif how == "fold":
            self.fold(gateway, attempt, len(ids))
        elif how in ("renew", "expire"):
            self.renew(gateway, attempt, how == "expire")
        elif how in ("abort", "quarantine"):
            more = (ref, Done(len(prompt), len(ids) - 1)) if how == "abort" else (digest(attempt[2]), LONG_MS)
            self.agree(gateway, how, session_id, *more, touches=session_id)
        else:
            given_back = self._reservation(attempt, sorted(WORKERS)[which % 2], 1, 0)
            self.agree(gateway, "release", given_back, touches=session_id)

    def _commit(self, gateway: int, attempt: Attempt, prompt: Ids, ids: Ids) -> None:
        session_id, ref, step = attempt
        session = self.memory.sessions.get(session_id)
        before = session.record.head if session else Head()
        owner = (session and session.attempt and session.attempt.worker) or "w1"
        revision = (session and session.record.model_revision) or REVISION
        thought = "Hm." if len(prompt) % 2 else ""
        used = {"gpu_seconds": len(ids) / 2, "rules": BUDGET_RULES[len(prompt + ids) % len(BUDGET_RULES)]}
        fields = {**used, "calls": len(ids) % 3, "owner": owner, "model_revision": revision}
        request = commit_request(session_id, ref, step, before, prompt, ids, thought, **fields)
        if self.agree(gateway, "commit", request, touches=session_id):
            self.cache(session_id, self.memory.sessions[session_id].record.owner, True)

    def _migrate(self, gateway: int, attempt: Attempt, extra: int) -> None:
        """To another revision or the same one, by an attempt that is live or was."""
        session_id, ref, _ = attempt
        session = self.memory.sessions.get(session_id)
        if session is None or session.is_gone(self.now) or not session.record.steps:
            return  # there is nothing to migrate
        generation = session.record.generation
        revision = f"rev-{generation + 1}" if extra % 2 else session.record.model_revision
        entries = self.loop.run(self.gateways[gateway].log(session_id, generation, 0, 99))
        gone = extra % 3
        request = migration(
            session_id, ref, session.record.head, entries, revision, extra=extra % 4, without_thinking=gone
        )
        self.agree(gateway, "migrate", request, touches=session_id)

    @rule(
        gateway=GATEWAYS, which=WHICH, tenant=TENANT, scope=SCOPES, added=st.integers(0, 3), request=st.integers(0, 1)
    )
    def extend(self, gateway: int, which: int, tenant: str, scope: BudgetScope, added: int, request: int) -> None:
        """Now and then by the request that did so last."""
        self.extend_budget(gateway, self.session(which), tenant, scope, added, f"r{request}")

    @rule(gateway=GATEWAYS, which=WHICH, tenant=TENANT, place=PLACES, request=FORK_REQUESTS, then=MOSTLY)
    def fork(self, gateway: int, which: int, tenant: str, place: str, request: str, then: bool) -> None:
        """Also of forks, of sessions that have migrated, and of those that are gone; then both may take a step."""
        other = self.session(which)
        fork = self.fork_session(gateway, other, tenant, place, request)
        if fork and then:
            self._step(gateway, fork, "a", "commit", 1)
            self._step(gateway, other, f"{self.now}", "commit", 1)

    @rule(gateway=GATEWAYS, which=WHICH, length=st.integers(2, 2 * MOST_SHARED_LOGS))
    def fork_again_and_again(self, gateway: int, which: int, length: int) -> None:
        """A fork of a fork, and so on, each with a step of its own and with the one before it deleted now and then."""
        session_id = self.session(which)
        for number in range(length):
            fork = self.fork_session(gateway, session_id, TENANTS[0], "head", "")
            if fork is None:
                return
            self._step(gateway, fork, "b", "commit", 1)
            if number % 3 == 1:
                self.agree(gateway, "delete", session_id, TENANTS[0], touches=session_id)
            session_id = fork

    @rule(gateway=GATEWAYS, which=WHICH, tenant=TENANT, how=OTHER_CALLS, expected=HEADS)
    def hold_evict_close_or_delete(self, gateway: int, which: int, tenant: str, how: str, expected: str) -> None:
        session_id = self.session(which)
        more = ("grep", 1.5, *self.head(session_id, expected, True)) if how == "hold" else ()
        self.agree(gateway, how, session_id, tenant, *more, touches=session_id)

    @rule(
        what=st.sampled_from(("open", "worker", "worker", "crash", "look", "cache", "drop", "expire", "lapse", "lose")),
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
        elif what == "expire":
            self.expire(self.session(which))
        elif what == "lapse":
            self.lapse(self.session(which))
        elif what == "lose":
            self.lose_sums(pool, shares=which % 2 == 0)
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


def machine(server: RedisServer | RedisCluster, restarts: int) -> type[StoreMachine]:
    return type("Machine", (StoreMachine,), {"server": server, "most_restarts": restarts})


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


def test_redis_and_memory_agree_on_one_redis_that_is_killed_now_and_then(fresh_redis):
    run(machine(fresh_redis, restarts=2), settings=profile(30))


def test_redis_and_memory_agree_on_three_shards(cluster):
    run(machine(cluster, restarts=0), settings=profile(20))


def test_redis_and_memory_agree_on_three_shards_that_are_killed(cluster):
    run(machine(cluster, restarts=1), settings=profile(3))
