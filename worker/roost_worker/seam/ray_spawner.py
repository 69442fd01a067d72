"""Spawns ranks as Ray actors in the placement group of a replica. Without Ray Serve, which no rank needs to import."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from roost_worker.seam.rank import RUNNER_MODULE, RankArgs, RankHandle, import_ahead, run_rank

DEATH_SECONDS = 0.2
"""How long a call of an actor that has died may take to fail."""


@dataclass(frozen=True, slots=True)
class RankResources:
    """Ray's logical resources of a rank."""

    cpus: float
    gpus: float
    threads: int
    """Threads of its CPU kernels; 0 leaves them to torch."""


class RankActor:
    """The process of one rank."""

    def __init__(self, threads: int) -> None:
        """Set the number of threads, which must precede the import of torch."""
        # Ray sets it to the actor's logical CPUs, here a fraction of one.
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)

    def prepare(self) -> None:
        """Import what `run` needs."""
        import_ahead([RUNNER_MODULE])

    def run(self, args: RankArgs) -> None:
        """Run until the shell closes the rank; a failure ends the process."""
        logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s rank {args.rank}: %(message)s")
        try:
            run_rank(args)
        except BaseException:
            logging.exception("rank %d failed", args.rank)
            os._exit(1)


class RayRank:
    """Implements RankHandle."""

    def __init__(self, actor: Any, args: RankArgs) -> None:
        self._actor = actor
        self._ended = actor.run.remote(args).future()

    def alive(self) -> bool:
        return not self._ended.done()

    def kill(self) -> None:
        ray.kill(self._actor)


class RaySpawner:
    """Implements Spawner: rank r is an actor in bundle 1 + r of the replica's placement group.

    The replica owns the actor, which dies with it. It is never restarted, since the other ranks would not know it.
    """

    def __init__(self, resources: RankResources, ahead: int = 0) -> None:
        """Create the actors of the first `ahead` ranks now: they import torch, and wait for their arguments."""
        self._resources = resources
        self._waiting: dict[int, Any] = {}
        if get_current_placement_group() is not None:  # else `spawn` says what is missing
            self._waiting = {rank: self._create(rank) for rank in range(ahead)}

    def spawn(self, args: RankArgs) -> RankHandle:
        actor = self._waiting.pop(args.rank, None)
        if actor is None or not _lives(actor):  # a conversion may take minutes
            actor = self._create(args.rank)
        return RayRank(actor, args)

    def end_waiting(self) -> None:
        """End the actors that were created ahead and have not become ranks."""
        while self._waiting:
            ray.kill(self._waiting.popitem()[1])

    def _create(self, rank: int) -> Any:
        group = get_current_placement_group()
        if group is None:
            raise OSError("there is no placement group for the ranks; deploy with build_app")
        actor: Any = (
            ray.remote(RankActor)
            .options(
                num_cpus=self._resources.cpus,
                num_gpus=self._resources.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1 + rank),
            )
            .remote(self._resources.threads)
        )
        actor.prepare.remote()
        return actor


def _lives(actor: Any) -> bool:
    """Whether an actor has not died: a call of a dead one fails at once, while one that still imports lets it wait."""
    answered, _ = ray.wait([actor.prepare.remote()], timeout=DEATH_SECONDS)
    try:
        ray.get(answered)
    except RayError:  # not only RayActorError: that of an actor which Ray killed for its memory is none
        return False
    return True
