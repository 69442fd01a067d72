"""Which ends of workers count as deaths under a step."""

import asyncio
from typing import Any

import pytest

from leases import lease_of
from roost.contract.lease import LEASE_TTL_MS
from roost.contract.pool_document import PoolDocument
from roost.store.records import StoreAwayError
from roost.store.worker_views import WorkerLook, WorkerView
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step import deaths
from roost_gateway.step.deaths import Deaths
from step_attempts import attempt_of, descriptor_of

POOL = "test/deaths"
AWAY = "away"
Look = WorkerView | None | str


def view(worker_id: str = "w1", ms_left: int = 3000, **lease: Any) -> WorkerView:
    return WorkerView(lease_of(worker_id, **lease), ms_left, 0, 0)


RENEWED = LEASE_TTL_MS
LIVES = (view(), view(ms_left=RENEWED))
RUNS_OUT = (view(), view(), None)


class Store:
    """What is read of each worker, look by look; the last one stays."""

    def __init__(self) -> None:
        self.looks: dict[str, list[Look]] = {}
        self.published: list[WorkerView] = []
        self.grace = 0.0

    def grace_seconds(self, pool: str) -> float:
        return self.grace

    async def look(self, pool: str, worker_id: str, session_id: str) -> WorkerLook:
        looks = self.looks[worker_id]
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(seen, str):
            raise StoreAwayError(seen)
        return WorkerLook(seen, 0)

    async def workers(self, pool: str) -> list[WorkerView]:
        return self.published


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(deaths, "LOOK_SECONDS", 0.0)
    return Store()


async def deaths_of(store: Store) -> Deaths:
    any_store: Any = store  # what these tests need of a store
    pool = PoolDocument.from_json(POOL, {"model": {"name": "m"}})
    workers = Workers(any_store)
    await workers.read(POOL)
    return Deaths(attempt_of(pool, descriptor_of("s", pool=POOL)), any_store, workers)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def noted(store: Store, watched: Deaths, worker_id: str, *looks: Look, engine_died: bool = False) -> bool:
    store.looks[worker_id] = list(looks)
    return await watched.note(WorkerState.of(view(worker_id)), engine_died=engine_died)


@pytest.mark.parametrize(
    ("looks", "is_fault", "counts"),
    [
        (RUNS_OUT, True, True),
        ((view(boot="another"),), True, True),
        ((view(), view(boot="another")), True, True),
        (LIVES, True, False),
        ((view(), view(draining=True)), True, False),
        ((view(draining=True),), False, False),
        ((None,), True, False),
        ((AWAY,), True, False),
    ],
    ids=[
        "its lease runs out",
        "it is back already",
        "it comes back",
        "it renews its lease",
        "it drains after all",
        "it was draining",
        "it had given its lease back",
        "the store cannot say",
    ],
)
async def test_what_counts_as_a_death(store: Store, looks: tuple[Look, ...], is_fault: bool, counts: bool) -> None:
    watched = await deaths_of(store)
    assert await noted(store, watched, "w0", *RUNS_OUT)
    assert not await watched.are_too_many()
    assert await noted(store, watched, "w1", *looks) is is_fault
    assert await watched.are_too_many() is counts


async def test_a_worker_that_lost_its_engine_has_died_although_it_gave_its_lease_back(store: Store) -> None:
    watched = await deaths_of(store)
    for worker_id in ("w1", "w2"):
        assert await noted(store, watched, worker_id, None, engine_died=True)
    assert await watched.are_too_many()


async def test_an_engine_that_is_lost_while_its_worker_drains_is_no_death(store: Store) -> None:
    store.published = [view("w1", draining=True)]
    watched = await deaths_of(store)
    assert not await noted(store, watched, "w1", None, engine_died=True)


async def test_a_worker_that_lives_makes_room_for_another_death(store: Store) -> None:
    watched = await deaths_of(store)
    for worker_id, looks in (("w1", RUNS_OUT), ("w2", LIVES)):
        assert await noted(store, watched, worker_id, *looks)
    assert not await watched.are_too_many()
    assert await noted(store, watched, "w3", *RUNS_OUT)
    assert await watched.are_too_many()


async def test_a_worker_that_lived_on_and_ended_later_has_not_died_of_the_step(store: Store) -> None:
    watched = await deaths_of(store)
    assert await noted(store, watched, "w1", *LIVES)
    await settle()
    store.looks["w1"] = [None]
    assert await noted(store, watched, "w2", *RUNS_OUT)
    assert not await watched.are_too_many()


async def test_a_death_of_which_the_store_says_nothing_in_time_does_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "JUDGE_SECONDS", 0.0)
    watched = await deaths_of(store)
    for worker_id in ("w1", "w2"):
        assert await noted(store, watched, worker_id, view(worker_id), AWAY)
    store.grace = 1e6
    assert not await watched.are_too_many()


async def test_nothing_is_judged_any_more_after_the_attempt(store: Store) -> None:
    watched = await deaths_of(store)
    assert await noted(store, watched, "w1", view(), AWAY)
    store.grace = 1e6
    await settle()
    watched.stop()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("lives", [False, True])
async def test_leases_that_ran_out_while_the_store_was_away_prove_nothing_before_its_grace_is_over(
    store: Store, lives: bool
) -> None:
    watched = await deaths_of(store)
    for worker_id in ("w1", "w2"):
        assert await noted(store, watched, worker_id, view(worker_id), AWAY, None)
    store.grace = 1e6
    verdict = asyncio.ensure_future(watched.are_too_many())
    await settle()
    assert not verdict.done()
    if lives:
        store.looks["w2"] = [view("w2", RENEWED)]
    store.grace = 0.0
    assert await verdict is not lives
