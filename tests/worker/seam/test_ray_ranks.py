"""Ranks that are created as Ray actors before their arguments are known: used, replaced when they die, ended."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from roost_worker.config import ModelConfig, WorkerConfig
from roost_worker.seam.rank import RankArgs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own deprecations
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from roost_worker.seam import ray_spawner

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
RESOURCES = ray_spawner.RankResources(0.1, 0.0, 1)


class Rank:
    """A rank whose `run` only says who it is, since nobody listens for a real one."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def prepare(self) -> None:
        pass

    def pid(self) -> int:
        return os.getpid()

    def run(self, args: RankArgs) -> tuple[int, int, int]:
        return os.getpid(), args.rank, self._threads


class Replica:
    """Does in a placement group what a worker's replica does there."""

    def __init__(self) -> None:
        ray_spawner.RankActor = Rank  # type: ignore[assignment,misc]  # in this actor's process only
        self._spawner = ray_spawner.RaySpawner(RESOURCES, ahead=2)

    def waiting(self) -> list[int]:
        return [ray.get(actor.pid.remote()) for actor in self._spawner._waiting.values()]

    def spawn(self, args: RankArgs) -> tuple[int, int, int]:
        rank: Any = self._spawner.spawn(args)
        result: tuple[int, int, int] = rank._ended.result()
        return result

    def end_waiting(self) -> None:
        self._spawner.end_waiting()


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def replica(local_ray: None) -> Iterator[Any]:
    group = placement_group([{"CPU": 0.1}] * 3, strategy="STRICT_PACK")
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    actor = ray.remote(Replica).options(num_cpus=0.1, scheduling_strategy=strategy).remote()
    yield actor
    ray.util.remove_placement_group(group)


def arguments(rank: int) -> RankArgs:
    config = WorkerConfig(pool="default/ray", model=ModelConfig(name="m", source="dummy://llama-tiny"))
    return RankArgs(config, Path("/none"), rank, 2, "/none/shell", b"key")


def until_gone(pid: int) -> None:
    """Waits for the end of another process; the test's own timeout ends an endless wait."""
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def wait_for(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def test_a_rank_is_the_actor_that_was_created_for_it(replica: Any) -> None:
    first, second = ray.get(replica.waiting.remote())
    assert ray.get(replica.spawn.remote(arguments(1))) == (second, 1, 1)
    assert ray.get(replica.spawn.remote(arguments(0))) == (first, 0, 1)


def test_an_actor_that_died_while_it_waited_is_replaced(replica: Any) -> None:
    first, second = ray.get(replica.waiting.remote())
    os.kill(first, 9)
    until_gone(first)
    pid, rank, _ = ray.get(replica.spawn.remote(arguments(0)))
    assert rank == 0
    assert pid not in (first, second)


def test_an_actor_that_ray_killed_for_its_memory_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's memory monitor does so while a conversion fills the node; its error is no RayActorError.
    def fail(answered: Any) -> None:
        raise ray.exceptions.OutOfMemoryError("killed due to the node running low on memory")

    created = iter([MagicMock(name="killed"), fresh := MagicMock(name="fresh")])
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: (calls, []))
    monkeypatch.setattr(ray, "get", fail)
    monkeypatch.setattr(ray_spawner, "get_current_placement_group", object)
    monkeypatch.setattr(ray_spawner.RaySpawner, "_create", lambda spawner, rank: next(created))
    ray_spawner.RaySpawner(RESOURCES, ahead=1).spawn(arguments(0))
    fresh.run.remote.assert_called_once_with(arguments(0))


def test_actors_that_became_no_rank_are_ended(replica: Any) -> None:
    waiting = ray.get(replica.waiting.remote())
    ray.get(replica.end_waiting.remote())
    for pid in waiting:
        until_gone(pid)
