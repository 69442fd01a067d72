"""What tests of the store and its users need: requests with sensible defaults, and the worker's side of the ledger."""

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis

from leases import lease_of
from redis_servers import PATIENCE_SECONDS
from roost.contract import loghash, names
from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import WorkerLease
from roost.store.budgets import NO_BUDGETS, BudgetRules
from roost.store.entry import Entry
from roost.store.grace import Grace
from roost.store.interface import SessionStore
from roost.store.keys import PoolKeys
from roost.store.records import (
    Began,
    BeginRequest,
    CommitRequest,
    LogEntry,
    MigrateRequest,
    NewSession,
    Reservation,
)
from roost.store.redis_store import RedisStore
from roost.store.residency import warm_field
from roost.store.service import Demand, ServiceCounters
from roost.store.shards import Shards
from roost.store.wake import Wake
from roost.store.wakes import read_wake
from roost.store.working_set import START_TARGET, Admission, Footprint, WorkingSet

POOL = "team/agents"
TENANT = "acme"
REVISION = "rev-1"
LONG_MS = 3_600_000
"""A lease that does not run out during a test."""
Raw = redis.Redis | redis.RedisCluster


def digest(text: str) -> bytes:
    return text.encode().ljust(16, b".")[:16]


def new_session(session_id: str = "", *, tenant: str = TENANT, **fields: Any) -> NewSession:
    defaults: dict[str, Any] = {
        "role": "coder",
        "model": "tiny",
        "model_revision": "",
        "date": "2026-11-30",
        "system": "You are brief. Žluťoučký 🦉",
        "tools": ({"name": "grep", "description": "search", "parameters": json.dumps({"type": "object"})},),
    }
    return NewSession(session_id or names.new_session_id(POOL), tenant, **{**defaults, **fields})


def begin_request(session_id: str, step_id: str = "step-1", **fields: Any) -> BeginRequest:
    defaults: dict[str, Any] = {
        "tenant": TENANT,
        "digest": digest(step_id),
        "expected_head": None,
        "nonce": os.urandom(16),
        "seed": secrets.randbits(64),
        "lease_ms": LONG_MS,
        "new_tokens": 10,
        "max_session_tokens": 0,
        "budget_tokens": 0,
        "max_steps": 0,
        "priority": 1,
        "deadline_ms": 0,
    }
    return BeginRequest(session_id=session_id, step_id=step_id, **{**defaults, **fields})


def reservation(began: Began, worker_id: str = "w1", tokens: int = 10, **fields: Any) -> Reservation:
    defaults: dict[str, Any] = {"priority": 1, "deadline_ms": 0, "lease_ms": LONG_MS}
    descriptor = began.descriptor
    return Reservation(descriptor.pool, descriptor.session_id, began.ref, worker_id, tokens, **{**defaults, **fields})


def commit_request(
    session_id: str,
    ref: AttemptRef,
    step_id: str,
    previous: Head = Head(),  # noqa: B008  # frozen
    prompt: tuple[int, ...] = (1, 2, 3),
    output: tuple[int, ...] = (4, 5),
    reasoning: str = "",
    gpu_seconds: float = 0.0,
    calls: int = 0,
    rules: BudgetRules = NO_BUDGETS,
    **fields: Any,
) -> CommitRequest:
    """A commit whose head fits its ids; `fields` are the entry's, and `ttl_ms` and `owner` the request's."""
    packed = loghash.pack_ids([*prompt, *output])
    head = Head(previous.length + len(prompt) + len(output), loghash.extend(previous.log_hash, packed))
    ttl_ms, owner = fields.pop("ttl_ms", 0), fields.pop("owner", "w1")
    entry: dict[str, Any] = {
        "step_id": step_id,
        "index": 0,
        "messages": ({"role": "tool" if calls else "user", "content": f"question of {step_id} 🦉"},),
        "output": {
            "role": "assistant",
            "content": "answer",
            "tool_calls": [{"id": "c", "name": "grep", "arguments": f"{calls}"}] * bool(calls),
            "text": "answer",
            **({"reasoning": reasoning} if reasoning else {}),
            **({"gpu_seconds": gpu_seconds} if gpu_seconds else {}),
        },
        "finish_reason": "stop",
        "prompt_tokens": len(prompt),
        "output_tokens": len(output),
        "cached_tokens": 1,
        "reconstructed_tokens": 2,
        "head": head,
        "seed": 7,
        "sampling": {"temperature": 0.5},
        "format": None,
        "model_revision": REVISION,
        "worker_id": "w1",
    }
    return CommitRequest(session_id, ref, previous, LogEntry(**{**entry, **fields}), packed, ttl_ms, owner, rules)


def migration(
    session_id: str,
    ref: AttemptRef,
    previous: Head,
    entries: Sequence[LogEntry],
    revision: str = "rev-2",
    *,
    extra: int = 0,
    without_thinking: int = 0,
    ttl_ms: int = 0,
    lease_ms: int = LONG_MS,
) -> MigrateRequest:
    """A log in other tokens: of each step a prompt of 1 and an output of 1 + `extra` ids."""
    head, packed, migrated = Head(), b"", []
    for entry in entries:
        ids = loghash.pack_ids([900 + entry.index, *range(800, 801 + extra)])
        head = Head(head.length + len(ids) // 4, loghash.extend(head.log_hash, ids))
        packed += ids
        migrated.append(
            replace(entry, prompt_tokens=1, output_tokens=1 + extra, head=head, model_revision=revision, worker_id="")
        )
    return MigrateRequest(
        session_id, ref, previous, tuple(migrated), packed, revision, ttl_ms, lease_ms, without_thinking
    )


def fold_request(began: Began, entries: Sequence[LogEntry], folded: int, **fields: Any) -> MigrateRequest:
    """A log whose first step is that of the attempt, and stands for the first `folded` steps."""
    assert began.descriptor.attempt is not None
    first = replace(entries[0], step_id=began.descriptor.attempt.step_id)
    request = migrate_request(began, [first, *entries[folded:]], revision=REVISION, **fields)
    return replace(request, folded=folded)


def migrate_request(began: Began, entries: Sequence[LogEntry], **fields: Any) -> MigrateRequest:
    descriptor = began.descriptor
    return migration(descriptor.session_id, began.ref, descriptor.head, entries, **fields)


def lease(worker_id: str = "w1", **fields: Any) -> WorkerLease:
    small = {"model": "tiny", "model_revision": REVISION, "capacity_tokens": 100, "max_running": 4}
    return lease_of(worker_id, **{**small, **fields})


def publish(raw: Raw, published: WorkerLease, *, ms: int = LONG_MS, pool: str = POOL) -> None:
    """What a worker does every second. Negative `ms`: its lease ran out."""
    keys = PoolKeys(pool)
    raw.set(keys.lease(published.worker_id), published.encode())
    raw.zadd(keys.workers, {published.worker_id: redis_ms(raw) + ms})


def publish_cached(raw: Raw, session_id: str, worker_id: str = "w1", tokens: int = 1, warm: int = 0) -> None:
    """What a worker publishes of a session that it has cached, on its device and in host memory; 0 tokens: that it has
    dropped it."""
    key = PoolKeys(session_id.rsplit("/", 1)[0]).residency(worker_id)
    for field, count in ((session_id, tokens), (warm_field(session_id), warm)):
        if count:
            raw.hset(key, field, count)
        else:
            raw.hdel(key, field)


def own(raw: Raw, session_id: str) -> None:
    """As if w1 had committed the session's last step and had it cached."""
    raw.hset(PoolKeys(POOL).session(session_id), "owner", "w1")
    publish_cached(raw, session_id)


def waiters(raw: Raw) -> set[str]:
    """Nonces of the attempts that wait."""
    return {nonce.decode() for nonce in raw.hkeys(PoolKeys(POOL).waiters)}


def begin_grace(store: RedisStore) -> None:
    """As if Redis had just come back, and for longer than a test takes."""
    store._link.shards = Shards(lambda: Grace(LONG_MS / 1000), is_cluster=False)
    store._link.shards.begin_grace()


def redis_ms(raw: Raw, pool: str = POOL) -> int:
    """Redis TIME of the pool's shard, in ms."""
    return int(
        raw.eval("local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)", 1, PoolKeys(pool).workers)
    )


def next_ms() -> None:
    """Wait until Redis's clock shows another millisecond. It is this machine's, on which tests run it."""
    shown = time.time_ns() // 1_000_000
    while (left := (shown + 1) * 1_000_000 - time.time_ns()) > 0:
        time.sleep(left / 1e9)


def reservations(raw: Raw, pool: str = POOL, *, summed: bool = False) -> dict[str, tuple[int, int]]:
    """The ledger: tokens and expiry of each `worker|nonce`. Asserts that its sums, where they say that they hold, do;
    and, when all was written by scripts, that they say so."""
    fields = {name.decode(): value.decode() for name, value in raw.hgetall(PoolKeys(pool).reservations).items()}
    members = {name: _pair(value) for name, value in fields.items() if not name.startswith("=")}
    hold = "=" in fields and _pair(fields["="])[0] == len(fields)
    assert hold or not (summed and fields)
    if hold:
        sums: dict[str, tuple[int, int]] = {}
        for name, (tokens, _) in members.items():
            held, count = sums.get(worker := name.split("|")[0], (0, 0))
            sums[worker] = (held + tokens, count + 1)
        assert {name[1:]: _pair(value) for name, value in fields.items() if name[0] == "=" != name} == sums
        assert _pair(fields["="])[1] <= min(expiry for _, expiry in members.values())
    return members


def live_sessions(raw: Raw, pool: str = POOL) -> dict[str, tuple[str, Footprint, bool]]:
    """Worker and footprint of each live session, and whether its KV there was promised. Asserts that the sums are
    theirs, and that each has an end."""
    keys, live, working_set = PoolKeys(pool), dict[str, tuple[str, Footprint, bool]](), WorkingSet()
    for name, value in raw.hgetall(keys.live).items():
        prefix, first, family, shared, own, promised, worker = value.decode().split("|")
        needed = Footprint(prefix, int(first), family, int(shared), int(own))
        live[name.decode()] = worker, needed, promised == "1"
        working_set.put(name.decode(), worker, needed, 1)
    assert {name.decode() for name in raw.zrange(keys.live_ends, 0, -1)} == set(live)
    sums = {name.decode(): value.decode() for name, value in raw.hgetall(keys.live_sums).items()}
    sums.pop("*", None)
    shares = raw.zcard(keys.live_shares)
    assert sums.pop("=", "0:0") == f"{len(live)}:{shares}"
    workers = {worker for worker, _, _ in live.values()}
    assert sums == {worker: f"{working_set.tokens(worker)}:{working_set.sessions(worker)}" for worker in workers}
    assert shares == sum(len([*needed.shares]) for _, needed, _ in live.values())
    return live


def tenant_services(raw: Raw, pool: str = POOL) -> dict[str, tuple[int, int, int]]:
    """Each tenant's counter, eight times the mean of its outputs, and how many attempts of it wait. Asserts that the
    sorted sets are those of the tenants."""
    keys, tenants, waiting = PoolKeys(pool), dict[str, tuple[int, int, int]](), dict[str, int]()
    for name, value in raw.hgetall(keys.service).items():
        if name != b":":
            counter, outputs, waits, _ = map(int, value.split(b":"))
            tenants[name.decode()] = counter, outputs, waits
            waiting |= {name.decode(): counter} if waits else {}
    assert {name.decode(): score for name, score in raw.zrange(keys.service_waiting, 0, -1, withscores=True)} == waiting
    assert {name.decode() for name in raw.zrange(keys.service_resting, 0, -1)} == tenants.keys() - waiting.keys()
    return tenants


def assert_same_services(raw: Raw, services: ServiceCounters, pool: str = POOL) -> None:
    assert int(raw.hget(PoolKeys(pool).service, ":") or 0) == services.clock
    assert tenant_services(raw, pool) == {
        name: (tenant.counter, tenant.outputs, tenant.waiting) for name, tenant in services.tenants.items()
    }


def entry_of(tokens: int) -> Entry:
    """Some entry, the same for the same step."""
    return Entry(Admission.GATED if tokens % 4 else Admission.PASSED, "ab" if tokens % 3 else "", tokens % 5)


def demand_of(tokens: int) -> Demand:
    """Some demand, the same for the same step."""
    return Demand(1 + tokens % 3, tokens, 20 * (tokens % 4))


def live_target(raw: Raw, pool: str = POOL) -> tuple[int, ...]:
    """The target, and the tokens of logs, and of what was lost of them, that were counted since it was last looked
    at."""
    value = raw.hget(PoolKeys(pool).live_sums, "*")
    return tuple(map(int, value.decode().split(":")[:3])) if value else (START_TARGET, 0, 0)


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    return int(first), int(second)


async def commit_step(store: SessionStore, session_id: str, step_id: str, **fields: Any) -> Head:
    """Begins a step and commits it; the log's new head."""
    began = await store.begin(begin_request(session_id, step_id))
    assert isinstance(began, Began)
    return (await store.commit(commit_request(session_id, began.ref, step_id, began.descriptor.head, **fields))).head


async def wakes_of_releases(raw: Any, store: SessionStore, *places: Reservation) -> list[Wake]:
    """Release one waiting step after the other. Return the first wake that follows, and the next one: an empty one,
    sent at the end, unless there were two."""
    with raw.pubsub() as pubsub:
        pubsub.subscribe(PoolKeys(POOL).wake)
        assert pubsub.get_message(timeout=PATIENCE_SECONDS)["type"] == "subscribe"
        for place in places:
            await store.release(place)
        messages = [pubsub.get_message(timeout=PATIENCE_SECONDS)["data"]]
        raw.publish(PoolKeys(POOL).wake, "the end")
        messages.append(pubsub.get_message(timeout=PATIENCE_SECONDS)["data"])
    return [read_wake(message) for message in messages]
