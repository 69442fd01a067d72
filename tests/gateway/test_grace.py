"""The one clock of grace: the store's, of which the fleet uses the first part."""

from types import SimpleNamespace
from typing import Any

import pytest

from redis_servers import RedisServer
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.store.grace import GRACE_SECONDS
from roost.store.redis_store import connect
from roost_gateway.fleet.grace import WorkerGrace

POOL = "test/grace"


@pytest.mark.parametrize(
    ("store_left", "fleet_left"),
    [
        (0.0, 0.0),
        (GRACE_SECONDS - LEASE_TTL_SECONDS, 0.0),
        (GRACE_SECONDS - 1.0, LEASE_TTL_SECONDS - 1.0),
        (GRACE_SECONDS, LEASE_TTL_SECONDS),
    ],
)
def test_workers_are_waited_for_as_long_as_a_lease_after_the_store_came_back(
    store_left: float, fleet_left: float
) -> None:
    store: Any = SimpleNamespace(grace_seconds={POOL: store_left}.__getitem__)
    assert WorkerGrace(store).left_seconds(POOL) == pytest.approx(fleet_left)
    assert WorkerGrace(store).is_on(POOL) == (fleet_left > 0)


async def test_a_store_that_has_just_started_counts_as_come_back(fresh_redis: RedisServer) -> None:
    store = await connect(fresh_redis.url)
    try:
        assert store.grace_seconds(POOL) == 0
        health = await store.health()
        assert (store.grace_seconds(POOL) > 0) == (health.uptime_seconds < LEASE_TTL_SECONDS)
    finally:
        await store.aclose()
