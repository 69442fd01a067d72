"""Ranks 1 and up of a tensor-parallel group as real processes, for tests that are rank 0 themselves."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fork_server import WORKERS, Forked, fork
from roost_worker.config import WorkerConfig
from roost_worker.engine.plan import HostCopy
from roost_worker.model.host_kv import HostKv
from roost_worker.model.runner import TorchRunner, build_runner, follow


def need_gpus(world: int) -> None:
    """Skips a test of `world` ranks where there are GPUs, but not one for each."""
    if 0 < torch.cuda.device_count() < world:
        pytest.skip(f"{world} ranks need as many GPUs")


class CorruptingHost(HostKv):
    """Host memory that flips a bit of each block before it is restored."""

    def start(self, copies: Sequence[HostCopy]) -> None:
        for copy in copies:
            if copy.restore:
                self.tensor[copy.slot].view(torch.uint8).view(-1)[-1] ^= 1
        super().start(copies)


@contextmanager
def tensor_parallel(
    config: WorkerConfig, model_dir: Path, folder: Path, *, corrupts: bool = False
) -> Iterator[tuple[TorchRunner, list[Forked]]]:
    """Rank 0's runner of a whole group and the other ranks' processes, which end with the group.

    If `corrupts`, the other ranks flip a bit of each block before they restore it from host memory.
    """
    world = config.model.tensor_parallel
    need_gpus(world)
    init_method = (folder / "meeting-point").as_uri()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    followers = [spawn_rank(config, model_dir, rank, world, init_method, corrupts=corrupts) for rank in range(1, world)]
    try:
        runner = build_runner(config, model_dir, rank=0, world=world, init_method=init_method)
        yield runner, followers
        runner.close()
        for follower in followers:
            follower.wait(timeout=60)
    finally:
        torch.set_num_threads(threads)
        for follower in followers:
            follower.kill()
            follower.wait()


def spawn_rank(
    config: WorkerConfig, model_dir: Path, rank: int, world: int, init_method: str, *, corrupts: bool = False
) -> Forked:
    """A rank that follows; as rank 0, one that dies as soon as the group is complete. `corrupts`: see
    `tensor_parallel`."""
    function = "follower_rank:run_rank"
    return fork(WORKERS.start(), function, config, model_dir, rank, world, init_method, corrupts)


def run_rank(config: WorkerConfig, model_dir: Path, rank: int, world: int, init_method: str, corrupts: bool) -> None:
    """A forked rank."""
    runner = build_runner(config, model_dir, rank=rank, world=world, init_method=init_method)
    if rank == 0:
        os._exit(0)
    if corrupts:
        runner._host = CorruptingHost(runner.info.host_slots, runner._cache)
    follow(runner)
