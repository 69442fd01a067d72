"""Engines behind the seam over the paged fake runner, and waits on processes' ends."""

from array import array
from pathlib import Path

import psutil

from paged_fake_runner import PagedFakeRunner, build_runner
from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.messages import Outputs, SamplingParams, StopReason, Submit
from roost_worker.seam.client import EngineClient
from roost_worker.seam.process_engine import start_process_engine
from roost_worker.seam.rank import RankArgs
from roost_worker.seam.subprocess_spawner import SubprocessRank, SubprocessSpawner
from roost_worker.seam.thread_engine import start_thread_engine

FAKE_RUNNER = "paged_fake_runner:build_runner"
LONG_SECONDS = 60.0
"""Far more than anything here takes."""


def worker_config(source: str = "fake", ranks: int = 1) -> WorkerConfig:
    model = ModelConfig("fake", source, "float32", ranks, context_tokens=512)
    return WorkerConfig("ns/pool", model, KvConfig(16, 4096), EngineConfig(4, 16))


def request(name: str, ids: list[int], max_tokens: int = 20, grammar: str | None = None) -> Submit:
    return Submit(name, array("I", ids), len(ids), SamplingParams(max_tokens=max_tokens), b"key", grammar=grammar)


class SeenSpawner:
    """A SubprocessSpawner that remembers its ranks."""

    def __init__(self) -> None:
        self.ranks: list[SubprocessRank] = []

    def spawn(self, args: RankArgs) -> SubprocessRank:
        self.ranks.append(SubprocessSpawner().spawn(args))
        return self.ranks[-1]

    @property
    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(rank.pid) for rank in self.ranks if psutil.pid_exists(rank.pid)]


async def thread_engine(config: WorkerConfig) -> EngineClient:
    def make_runner() -> PagedFakeRunner:
        return build_runner(config, Path())

    return await start_thread_engine(make_runner, config)


async def process_engine(
    config: WorkerConfig, spawner: SeenSpawner | None = None, timeout: float = LONG_SECONDS
) -> EngineClient:
    spawn = spawner or SubprocessSpawner()
    return await start_process_engine(config, Path(), spawn, runner=FAKE_RUNNER, timeout=timeout)


async def collect(engine: EngineClient, names: set[str]) -> dict[str, list[int]]:
    """Reads outputs until all of `names` have ended."""
    ids: dict[str, list[int]] = {name: [] for name in names}
    open_names = set(names)
    outputs: Outputs
    async for outputs in engine.outputs():
        for output in outputs.outputs:
            ids[output.request_id].extend(output.token_ids)
            if output.stop is not None:
                assert output.stop is not StopReason.FAILED, output.error
                open_names.discard(output.request_id)
        if not open_names:
            break
    return ids
