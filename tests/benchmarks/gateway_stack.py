"""What `bench_gateway` measures: Redis, a null worker and a gateway of one tree, each a process of its own."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway_load import PROMPT_IDS, TOKENS, Meter
from other_tree import Tree

from gateway_driver import POOL, publish_pool, serving
from measured_processes import Child, gateway_process
from redis_servers import RedisServer


@dataclass(frozen=True)
class GatewayStack:
    """Addresses, and the meter of all processes."""

    gateway: str
    worker: str
    meter: Meter


@asynccontextmanager
async def gateway_stack(tree: Tree, redis_dir: str, interval: float) -> AsyncIterator[GatewayStack]:
    """Starts a tree's gateway and null worker, whose tokens come each `interval` seconds, over a Redis of this tree."""
    redis = RedisServer()
    redis.directory = Path(tempfile.mkdtemp(prefix="roost-bench-", dir=redis_dir))
    with redis, tempfile.TemporaryDirectory() as folder:
        publish_pool(
            redis, model={"name": "null", "contextTokens": 0}, roles=[{"name": "r", "maxOutputTokensPerStep": 64}]
        )
        worker = await _start_worker(tree, redis, interval)
        gateway = await gateway_process(redis, Path(folder), tree=tree.path, python=tree.python)
        try:
            await serving(gateway.address)
            pids = {"gateway": gateway.process.pid, "worker": worker.process.pid, "redis": redis.pid}
            yield GatewayStack(gateway.address, worker.address, Meter({**pids, "generator": os.getpid()}))
        finally:
            await gateway.aclose()
            await worker.aclose()


async def _start_worker(tree: Tree, redis: RedisServer, interval: float) -> Child:
    script = ["--tokens", TOKENS, "--interval", interval, "--prompt-ids", PROMPT_IDS]
    arguments = ["-m", "null_worker_process", "--lean", "--redis", redis.url, "--pool", POOL, *map(str, script)]
    return await Child.start(arguments, tree=tree.path, python=tree.python)
