"""Gateways and null workers started as users start them, for benchmarks."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forked_gateway import LIMIT_SECONDS, write_config
from gateway_driver import ROOT
from redis_servers import RedisServer


class Child:
    """A gateway or null worker, dead at the latest with `aclose`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""

    @classmethod
    async def start(
        cls, arguments: Sequence[str], *, tree: Path = ROOT, python: Path = Path(sys.executable)
    ) -> "Child":
        """Runs `python ARGUMENTS` on the code of `tree` until it prints `listening on ADDRESS`."""
        paths = [str(tree / part) for part in ("proto", "gateway", "worker", "tests/support")]
        process = await asyncio.create_subprocess_exec(
            python,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        child = cls(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                line = (await process.stdout.readline()).decode()
            assert line.startswith("listening on "), f"{arguments}: {line!r}"
        except BaseException:
            await child.aclose()
            raise
        child.address = line.removeprefix("listening on ").strip()
        return child

    async def aclose(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process._transport.close()  # type: ignore[attr-defined]  # else its pipe is closed by the collector


async def gateway_process(
    redis: RedisServer, folder: Path, *, tree: Path = ROOT, python: Path = Path(sys.executable), **fields: Any
) -> Child:
    """A gateway that listens, with `fields` in its configuration."""
    config = write_config(redis, folder, **fields)
    return await Child.start(["-m", "roost_gateway", "--config", str(config)], tree=tree, python=python)
