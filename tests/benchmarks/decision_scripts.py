"""What Reserve and Commit cost Redis where a pool's working set holds many live sessions: time in the server."""

from collections.abc import Iterator
from typing import Any

from figures import percentiles

from redis_servers import RedisServer
from roost.store.entry import Entry
from roost.store.keys import PoolKeys
from roost.store.records import Began
from roost.store.redis_store import RedisStore, connect
from roost.store.working_set import Admission
from store_driver import (
    LONG_MS,
    POOL,
    begin_request,
    commit_request,
    lease,
    new_session,
    publish,
    redis_ms,
    reservation,
)

PREFIX, PREFIX_TOKENS, OWN_TOKENS = "ab" * 16, 4_000, 30_000
STEPS = 300
ENTRY = Entry(Admission.GATED, PREFIX, PREFIX_TOKENS)
_BATCH = 10_000


class ScriptTimes:
    """Microseconds of each script in Redis, by the server's slow log."""

    def __init__(self, redis: RedisServer, workers: int, sessions: int) -> None:
        self._redis, self._workers, self._sessions, self._keys = redis, workers, sessions, PoolKeys(POOL)

    async def __call__(self) -> dict[str, Any]:
        with self._redis.client() as raw:
            raw.flushall()
            raw.config_set("slowlog-log-slower-than", 0)
            raw.config_set("slowlog-max-len", 4 * STEPS)
            self._publish_workers(raw)
            self._fill_working_set(raw)
            store = await connect(self._redis.url, grace_ms=0)
            try:
                return {"scripts": await self._measure(store, raw)}
            finally:
                await store.aclose()

    async def _measure(self, store: RedisStore, raw: Any) -> dict[str, dict[str, float]]:
        """Each step is its session's first, and goes to the next worker."""
        begun = [await self._begin(store) for _ in range(STEPS)]
        raw.slowlog_reset()
        for began, worker in zip(begun, self._names(STEPS), strict=True):
            answer = await store.reserve(reservation(began, worker, OWN_TOKENS, entry=ENTRY))
            assert answer.granted, "every worker has room"
        reserve = _script_times(raw)
        raw.slowlog_reset()
        for began, worker in zip(begun, self._names(STEPS), strict=True):
            await store.commit(commit_request(began.descriptor.session_id, began.ref, "step-1", owner=worker))
        return {"reserve": reserve, "commit": _script_times(raw)}

    async def _begin(self, store: RedisStore) -> Began:
        session = await store.open(new_session())
        began = await store.begin(begin_request(session.session_id, entry=ENTRY, new_tokens=OWN_TOKENS))
        assert isinstance(began, Began), "the session is new"
        return began

    def _publish_workers(self, raw: Any) -> None:
        """Their KV is four times what their live sessions need."""
        capacity = 4 * OWN_TOKENS * (self._sessions // self._workers + STEPS)
        for name in self._names(self._workers):
            publish(raw, lease(name, capacity_tokens=capacity, max_running=STEPS))

    def _fill_working_set(self, raw: Any) -> None:
        keys, end = self._keys, redis_ms(raw) + LONG_MS
        for first in range(0, self._sessions, _BATCH):
            numbers = range(first, min(first + _BATCH, self._sessions))
            batch = [(f"live{number}", f"w{number % self._workers}") for number in numbers]
            raw.hset(
                keys.live,
                mapping={name: f"{PREFIX}|{PREFIX_TOKENS}||0|{OWN_TOKENS}|0|{worker}" for name, worker in batch},
            )
            raw.zadd(keys.live_ends, {name: end for name, _ in batch})
            raw.zadd(keys.live_shares, {f"{worker}|p{PREFIX}|{PREFIX_TOKENS:012}|{name}": 0 for name, worker in batch})
        share = self._sessions // self._workers
        sums = f"{PREFIX_TOKENS + share * OWN_TOKENS}:{share}"
        raw.hset(keys.live_sums, mapping=dict.fromkeys(self._names(self._workers), sums))
        raw.hset(keys.live_sums, "=", f"{self._sessions}:{self._sessions}")

    def _names(self, count: int) -> Iterator[str]:
        return (f"w{number % self._workers}" for number in range(count))


def _script_times(raw: Any) -> dict[str, float]:
    """p50 and p99 of the scripts that have run since the slow log was emptied."""
    rows = raw.slowlog_get(4 * STEPS)
    return percentiles([row["duration"] for row in rows if row["command"].startswith(b"EVALSHA")])
