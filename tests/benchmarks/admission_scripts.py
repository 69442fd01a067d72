"""What a Begin and a Reserve cost Redis while others wait: time in the server, of this tree or of an older commit."""

import importlib
import os
from typing import Any

from redis_servers import RedisServer
from roost.contract import names
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys

POOL = "bench/store"
LONG_MS = 3_600_000
CALLS = 50


async def microseconds(package: str, redis: RedisServer, waiters: int) -> dict[str, float]:
    """Mean time in Redis of a Reserve that has to wait, and of a Begin that finds its session's worker full."""
    store_of = "roost" if package == "roost_gateway" else package  # older gateways had the store with them
    module = importlib.import_module(f"{store_of}.store.redis_store")
    records = importlib.import_module(f"{store_of}.store.records")
    with redis.client() as raw:
        raw.flushall()
        raw.config_set("appendfsync", "no")
        _publish(raw, "w1", capacity_tokens=0)
        store = await module.connect(redis.url, grace_ms=0)
        try:
            for _ in range(waiters):
                await _wait(store, records)
            session_id = await _committed(store, records)
            raw.hset(PoolKeys(POOL).residency("w1"), session_id, 2)
            reserve = await _wait(store, records)
            return {
                "reserve": await _measure(raw, lambda: store.reserve(reserve)),
                "begin": await _measure(raw, lambda: store.begin(_begin(records, session_id, "second"))),
            }
        finally:
            await store.aclose()


async def _measure(raw: Any, call: Any) -> float:
    await call()
    raw.config_resetstat()
    for _ in range(CALLS):
        await call()
    return round(float(raw.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]), 1)


async def _wait(store: Any, records: Any) -> Any:
    """A step that waits for the full worker."""
    session_id = await _opened(store, records)
    began = await store.begin(_begin(records, session_id, "first"))
    asked = records.Reservation(POOL, session_id, began.ref, "w1", 100, 1, 0, LONG_MS)
    assert not await store.reserve(asked)
    return asked


async def _committed(store: Any, records: Any) -> str:
    """A session that has a step, committed by the full worker."""
    session_id = await _opened(store, records)
    began = await store.begin(_begin(records, session_id, "first"))
    hashing = importlib.import_module("roost.contract.loghash")
    packed = hashing.pack_ids([1, 2])
    head_type = records.LogHead if hasattr(records, "LogHead") else records.Head  # as older commits call it
    head = head_type(2, hashing.extend(b"", packed))
    entry = records.LogEntry("first", 0, (), {}, "stop", 1, 1, 0, 0, head, 1, {}, None, "rev-1", "w1")
    await store.commit(records.CommitRequest(session_id, began.ref, head_type(), entry, packed, 0, "w1"))
    return session_id


async def _opened(store: Any, records: Any) -> str:
    new = records.NewSession(names.new_session_id(POOL), "tenant", "role", "m", "", "", ())
    return str((await store.open(new)).session_id)


def _begin(records: Any, session_id: str, step_id: str) -> Any:
    return records.BeginRequest(
        session_id=session_id,
        tenant="tenant",
        step_id=step_id,
        digest=b"d" * 16,
        expected_head=None,
        nonce=os.urandom(16),
        seed=1,
        lease_ms=LONG_MS,
        new_tokens=10,
        max_session_tokens=0,
        budget_tokens=0,
        max_steps=0,
        priority=1,
        deadline_ms=0,
    )


def _publish(raw: Any, worker_id: str, **fields: Any) -> None:
    keys = PoolKeys(POOL)
    lease = WorkerLease(
        **{
            "worker_id": worker_id,
            "boot": "b",
            "address": "127.0.0.1:1",
            "model": "m",
            "model_revision": "rev-1",
            "capacity_tokens": 1000,
            "max_running": 4,
            **fields,
        }
    )
    seconds, _ = raw.time()
    raw.set(keys.lease(worker_id), lease.encode())
    raw.zadd(keys.workers, {worker_id: seconds * 1000 + LONG_MS})
