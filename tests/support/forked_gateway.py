"""A gateway in a process of its own, forked from a server that has imported its code, over real Redis."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, Self

from fork_server import GATEWAYS, ForkedProcess
from redis_servers import RedisServer
from roost.fault_points import DIRECTORY_VARIABLE

LIMIT_SECONDS = 60.0
"""How long it may take to listen, and to end."""


class GatewayProcess:
    """Dead at the latest with `aclose`."""

    def __init__(self, process: ForkedProcess) -> None:
        self.process = process
        self.address = ""

    @classmethod
    async def start(cls, redis: RedisServer, folder: Path, fault: str, **fields: Any) -> Self:
        """Returns once it listens; `fault`, as `point:kill:n`, is armed for it alone."""
        name = os.urandom(4).hex()
        faults, log = folder / f"faults-{name}", folder / f"gateway-{name}.log"
        faults.mkdir()
        if fault:
            point, _, action = fault.partition(":")
            (faults / point).write_text(action)
        process = await ForkedProcess.start(
            GATEWAYS.start(),
            "roost_gateway.__main__:main",
            command_line=["--config", str(write_config(redis, folder, **fields))],
            environment={**os.environ, DIRECTORY_VARIABLE: str(faults)},
            log=log,
        )
        gateway = cls(process)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while not (address := _listens_at(log)) and process.returncode is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert address, log.read_text()
        except BaseException:
            await gateway.aclose()
            raise
        gateway.address = address
        return gateway

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.process.wait()

    async def aclose(self) -> None:
        self.kill()
        await self.process.wait()


def _listens_at(log: Path) -> str:
    """The address that a gateway has written to its log, or an empty text."""
    line = re.search(r"^listening on (.+)\n", log.read_text(), re.MULTILINE)
    return line[1] if line else ""


def write_config(redis: RedisServer, folder: Path, **fields: Any) -> Path:
    """The configuration of a gateway in a file of its own."""
    config = folder / f"gateway-{os.urandom(4).hex()}.json"
    config.write_text(json.dumps({"listen": "127.0.0.1:0", "store_url": redis.url, **fields}))
    return config
