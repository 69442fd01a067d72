"""Workers without Ray: one supervised process each."""

import json
import sys
from dataclasses import asdict, replace

from roost_operator.local.health import health
from roost_operator.local.ports import free_port
from roost_operator.local.processes import Command
from roost_operator.local.state_dir import StateDirectory
from roost_worker.config import WorkerConfig

READY_SECONDS = 600.0
"""A first start compiles the kernels, and reads gigabytes of weights; one that fails ends by itself."""


def worker_command(state: StateDirectory, number: int, config: WorkerConfig, threads: int) -> Command:
    """How to run worker `number` (from 1) on a free port, with `threads` threads for each rank."""
    config = replace(config, port=free_port(config.host))
    file = state.write_private(f"worker-{number}.json", json.dumps(asdict(config), default=str))

    async def ready() -> bool:
        return await health(f"{config.host}:{config.port}") is True

    return Command(
        name=f"worker-{number}",
        argv=(sys.executable, "-m", "roost_worker", "--config", str(file)),
        log=state.file("logs", f"worker-{number}.log"),
        ready=ready,
        ready_seconds=READY_SECONDS,
        stop_seconds=config.drain_seconds + 5.0,
        environment={"OMP_NUM_THREADS": str(threads)},
    )
