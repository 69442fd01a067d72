"""Pool documents as a gateway reads them, and what follows from them."""

from typing import Any

import pytest

from gateway_driver import Rig, step_request
from roost.contract.pool_document import SCHEMA_VERSION, PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.keys import POOLS, PoolKeys
from roost.store.memory import MemoryStore
from roost_gateway.core.caller import ANYONE
from roost_gateway.core.models import pool_of_model, served_models
from roost_gateway.fleet.pools import Pools

POOL = "team/agents"


def store_of(document: dict[str, Any]) -> MemoryStore:
    store = MemoryStore()
    store.documents[POOL] = document
    return store


async def test_a_newer_document_leaves_the_one_that_was_read_last(caplog: pytest.LogCaptureFixture) -> None:
    store = store_of({"schemaVersion": SCHEMA_VERSION, "admission": {"queueLimit": 5}})
    pools = Pools(store, ())
    assert (await pools.get(POOL)).queue_limit == 5
    store.documents[POOL] = {"schemaVersion": SCHEMA_VERSION + 1, "admission": {"queueLimit": 6}}
    assert (await pools.reread(POOL)).queue_limit == 5
    assert f"pool {POOL}: its document in the store cannot be read: schemaVersion 2 is newer than 1" in caplog.text


async def test_a_document_that_is_no_json_costs_no_other_pool_its_gateways(rig: Rig) -> None:
    with rig.redis.client() as client:
        client.set(PoolKeys("test/broken").document, "{")
        client.sadd(POOLS, "test/broken")
    await rig.worker()
    caller = rig.caller(await rig.gateway())
    assert (await caller.step(step_request(await caller.open()))).committed is not None


async def test_a_pool_whose_only_document_is_newer_is_not_served() -> None:
    with pytest.raises(Refused) as caught:
        await Pools(store_of({"schemaVersion": SCHEMA_VERSION + 1}), ()).get(POOL)
    assert caught.value.reason is Reason.POOL_NOT_FOUND


async def test_a_name_that_a_pool_gives_its_model_twice_still_names_one_pool() -> None:
    pools = Pools(store_of({"model": {"name": "m", "aliases": ["m", "other", "other"]}}), ())
    await pools.get(POOL)
    assert [model.name for model in served_models(pools, ANYONE)] == ["m", "other"]
    assert [(await pool_of_model(pools, name, ANYONE)).pool for name in ("m", "other")] == [POOL, POOL]


def test_the_longest_log_is_the_smaller_of_context_and_limit() -> None:
    def limit(context: int, most: int) -> int:
        return PoolDocument.from_json(
            POOL, {"model": {"contextTokens": context}, "sessions": {"maxTokens": most}}
        ).token_limit

    assert (limit(100, 40), limit(100, 400), limit(100, 0), limit(0, 40), limit(0, 0)) == (40, 100, 100, 40, 0)


def test_a_role_that_the_pool_no_longer_has_is_without_limits() -> None:
    pool = PoolDocument.from_json(
        POOL, {"roles": [{"name": "coder", "priority": 5, "maxStepsPerSession": 3}, {"name": "critic"}]}
    )
    assert pool.role("coder") == PoolRole("coder", priority=5, max_steps=3)
    assert pool.role("gone") == PoolRole("gone")
    assert pool.priorities == [5, 0]


def test_an_idle_time_is_kept_in_milliseconds() -> None:
    assert PoolDocument.from_json(POOL, {"sessions": {"idleTTLSeconds": 1.5}}).idle_ttl_ms == 1500


@pytest.mark.parametrize(
    ("sessions", "implicit_ms"),
    [
        ({}, 3_600_000),
        ({"implicitTTLSeconds": 0}, 3_600_000),
        ({"implicitTTLSeconds": 1.5}, 1500),
        ({"idleTTLSeconds": 60}, 60_000),
        ({"idleTTLSeconds": 86_400, "implicitTTLSeconds": 600}, 600_000),
    ],
)
def test_sessions_of_conversations_live_no_longer_than_others(sessions: dict[str, float], implicit_ms: int) -> None:
    assert PoolDocument.from_json(POOL, {"sessions": sessions}).implicit_ttl_ms == implicit_ms
