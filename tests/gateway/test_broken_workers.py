"""Which workers steps avoid since a stream to them broke, by what is read of their leases afterwards."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from leases import lease_of
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.store.worker_views import WorkerView
from roost_gateway.fleet import broken_workers
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import StepNeed

POOL = "test/broken"
NEED = StepNeed(session_id="s", model_revision="", log_tokens=0, new_tokens=10)


class Store:
    """Leases as the workers have renewed them last."""

    def __init__(self) -> None:
        self.published: dict[str, WorkerView] = {}

    def grace_seconds(self, pool: str) -> float:
        return 0.0

    def publish(self, worker_id: str, ms_left: int, **lease: Any) -> None:
        self.published[worker_id] = WorkerView(lease_of(worker_id, **lease), ms_left, 0, 0)

    async def workers(self, pool: str) -> list[WorkerView]:
        return list(self.published.values())


class World:
    """A pool, and what a gateway knows of it."""

    def __init__(self) -> None:
        self.store = Store()
        any_store: Any = self.store  # what these tests need of a store
        self.workers = Workers(any_store)

    async def reads(self, worker_id: str, ms_left: int, **lease: Any) -> None:
        self.store.publish(worker_id, ms_left, **lease)
        await self.workers.read(POOL)

    def breaks(self, worker_id: str) -> None:
        worker = self.workers.listed(POOL, worker_id)
        assert worker is not None
        self.workers.mark_broken(worker)

    @property
    def chosen(self) -> str | None:
        choice = self.workers.choose(POOL, NEED, frozenset())
        return None if choice is None else choice.worker.worker_id


@pytest.fixture
async def world() -> World:
    world = World()
    await world.reads("w1", 4000)
    world.breaks("w1")
    await world.reads("w1", 3000)
    return world


async def test_the_only_worker_is_avoided_until_it_renews_its_lease(world: World) -> None:
    await world.reads("w1", 1000)
    assert world.chosen is None, "it may have died"
    await world.reads("w1", 5000)
    assert world.chosen == "w1"


async def test_a_lease_that_has_run_out_does_not_count_as_renewed_however_long_it_is_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the store's grace period."""
    later = time.monotonic() + LEASE_TTL_SECONDS - 1.0
    monkeypatch.setattr(broken_workers, "time", SimpleNamespace(monotonic=lambda: later))
    await world.reads("w1", 0)
    assert world.chosen is None


async def test_a_worker_that_breaks_once_more_has_to_renew_its_lease_once_more(world: World) -> None:
    await world.reads("w1", 5000)
    world.breaks("w1")
    await world.reads("w1", 4000)
    assert world.chosen is None
    await world.reads("w1", 6000)
    assert world.chosen == "w1"


async def test_a_worker_that_lives_is_avoided_where_another_may_serve_the_step(world: World) -> None:
    await world.reads("w1", 5000)
    await world.reads("w2", 5000, capacity_tokens=1)
    assert world.chosen == "w2", "even where it is full"
    assert [worker.worker_id for worker in world.workers.states(POOL)] == ["w2"]


async def test_another_start_of_a_worker_is_not_avoided(world: World) -> None:
    await world.reads("w1", 3000, boot="another")
    assert world.chosen == "w1"
