"""A cluster of which a part is away: pools whose keys lie elsewhere go on being served."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_driver import LIMIT_SECONDS
from leases import lease_of
from roost.store.grace import GRACE_SECONDS
from roost.store.records import StoreAwayError
from roost.store.store_health import StoreHealth
from roost.store.worker_views import WorkerView
from roost_gateway.fleet import fleet as fleet_module
from roost_gateway.fleet import workers
from roost_gateway.fleet.fleet import Fleet

HERE, AWAY = "test/here", "test/away"


class Store:
    """Two pools with one worker each."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.silent: set[str] = set()
        """Pools whose part of the store neither answers nor refuses."""
        self.leases = {HERE: "w1", AWAY: "w2"}
        self.grace: dict[str, float] = {}

    def grace_seconds(self, pool: str) -> float:
        return self.grace.get(pool, 0.0)

    async def pools(self) -> list[str]:
        return [HERE, AWAY]

    async def pool_document(self, pool: str) -> dict[str, Any]:
        await self._ask(pool)
        return {"model": {"name": "m"}}

    async def workers(self, pool: str) -> list[WorkerView]:
        await self._ask(pool)
        return [WorkerView(lease_of(worker), 5000, 0, 0) for worker in [self.leases.get(pool)] if worker]

    async def health(self) -> StoreHealth:
        await self._ask(*self.leases)
        return StoreHealth(True, (), "run", uptime_seconds=10**6)

    async def _ask(self, *pools: str) -> None:
        if self.silent.intersection(pools):
            await asyncio.Event().wait()
        if self.away.intersection(pools):
            raise StoreAwayError


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def fleet(store: Store) -> AsyncIterator[Fleet]:
    any_store: Any = store  # what these tests need of a store
    fleet = Fleet(any_store, (), {})
    yield fleet
    await fleet.aclose()


def _workers(fleet: Fleet, pool: str) -> list[str]:
    return [worker.worker_id for worker in fleet.workers.states(pool)]


def test_a_pool_that_stays_without_workers_is_read_as_seldom_as_others() -> None:
    search, usual = fleet_module.SEARCH_SECONDS, fleet_module.WATCH_SECONDS
    assert [fleet_module.pause_seconds(age, searches=True) for age in (0.0, 59.0, 61.0, 1e6)] == [
        search,
        search,
        usual,
        usual,
    ]
    assert fleet_module.pause_seconds(1.0, searches=False) == usual > search


async def test_the_first_worker_is_found_sooner_than_the_others(
    store: Store, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "WATCH_SECONDS", 3600.0)
    store.leases = {}
    came = asyncio.Event()
    fleet.on_change = lambda pool: came.set() if fleet.ready else None
    await fleet.start()
    assert not fleet.ready
    store.leases[HERE] = "w1"
    async with asyncio.timeout(LIMIT_SECONDS):
        await came.wait()


async def test_a_pool_is_served_while_the_part_of_another_one_is_away(store: Store, fleet: Fleet) -> None:
    await fleet.read(0)
    assert (fleet.ready, fleet.store_answers) == (True, True)
    store.away = {AWAY}
    store.leases[HERE] = "w3"
    for tick in range(1, 5):  # with the fourth, documents are read as well
        await fleet.read(tick)
        assert (fleet.ready, fleet.store_answers) == (True, False)
    assert (_workers(fleet, HERE), _workers(fleet, AWAY)) == (["w3"], ["w2"])
    assert fleet.pools.names == [HERE, AWAY]


async def test_a_gateway_starts_while_a_part_is_away(store: Store, fleet: Fleet) -> None:
    store.away = {AWAY}
    await fleet.read(0)
    assert (fleet.ready, fleet.store_answers, fleet.pools.names) == (True, False, [HERE])
    store.away = set()
    await fleet.read(1)
    assert (fleet.store_answers, fleet.pools.names, _workers(fleet, AWAY)) == (True, [HERE, AWAY], ["w2"])


async def test_a_gateway_whose_only_workers_are_of_a_pool_that_is_away_does_not_serve(
    store: Store, fleet: Fleet
) -> None:
    del store.leases[HERE]
    await fleet.read(0)
    assert fleet.ready
    store.away = {AWAY}
    await fleet.read(1)
    assert not fleet.ready


async def test_a_gateway_does_not_serve_while_all_is_away(store: Store, fleet: Fleet) -> None:
    await fleet.read(0)
    store.away = {HERE, AWAY}
    await fleet.read(1)
    assert (fleet.ready, fleet.store_answers) == (False, False)


async def test_a_pool_is_read_while_the_part_of_another_one_is_silent(
    store: Store, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine of that part is gone: each call fails only after several timeouts."""
    await fleet.read(0)
    monkeypatch.setattr(fleet_module, "_LATE_SECONDS", 0.02)
    store.silent = {AWAY}
    store.leases[HERE] = "w3"
    tick = 0
    async with asyncio.timeout(LIMIT_SECONDS):
        while tick < 5 or _workers(fleet, HERE) != ["w3"]:  # with the fourth, documents are read as well
            tick += 1
            await fleet.read(tick)
    assert fleet.ready
    assert _workers(fleet, AWAY) == ["w2"]


async def test_a_worker_that_is_gone_is_not_waited_for_until_another_part_comes_back(
    store: Store, fleet: Fleet
) -> None:
    store.grace, store.away = {AWAY: GRACE_SECONDS}, {AWAY}
    await fleet.read(0)
    del store.leases[HERE]
    await fleet.read(1)
    assert _workers(fleet, HERE) == []
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await fleet.workers.find(HERE, "w1") is None


async def test_a_worker_that_is_gone_is_not_waited_for_while_calls_go_on_failing(
    store: Store, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", 0.0)
    store.grace = {HERE: GRACE_SECONDS}
    await fleet.read(0)
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await fleet.workers.find(HERE, "gone") is None
