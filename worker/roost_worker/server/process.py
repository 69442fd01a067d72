"""A worker that is a process of its own, without Ray, from its start to its drain."""

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import NoReturn

from roost_worker.config import WorkerConfig
from roost_worker.seam.client import EngineClient
from roost_worker.seam.process_engine import start_process_engine
from roost_worker.seam.rank import Spawner
from roost_worker.server.server import WorkerServer

LOG = logging.getLogger("roost_worker")


async def serve(config: WorkerConfig, spawner: Spawner) -> int:
    """Serve until a signal, then drain. Return 0 after a drain, 1 when the worker died.

    Raise what `WorkerServer.start` raises.
    """

    async def start_engine(config: WorkerConfig, model_dir: Path) -> EngineClient:
        return await start_process_engine(config, model_dir, spawner)

    ended = asyncio.Event()
    server = WorkerServer(config, start_engine, on_fatal=lambda reason: ended.set())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    starting = asyncio.create_task(server.start())
    await asyncio.wait([starting, stopping := asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            await _give_up(starting)
        announcement = {"worker_id": server.worker_id, "address": await starting, "metrics_port": server.metrics_port}
        print(json.dumps(announcement), flush=True)
        await stopping
        return 1 if server.failure else await _drain(server, ended)
    finally:
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await server.stop()


async def _give_up(starting: "asyncio.Task[str]") -> NoReturn:
    """End the process during its start. Leaving the loop would wait for a conversion's thread."""
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    LOG.info("stopped before the worker was ready")
    logging.shutdown()
    os._exit(0)


async def _drain(server: WorkerServer, ended: asyncio.Event) -> int:
    """Drain. A second signal ends the worker at once."""
    ended.clear()
    LOG.info("draining, for at most %.0f s; a second signal stops at once", server.config.drain_seconds)
    waits = [asyncio.create_task(server.drain()), asyncio.create_task(ended.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return 1 if server.failure else 0
