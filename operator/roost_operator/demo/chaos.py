"""Kills what serves the agents: a worker, a gateway and Redis, each while steps run."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from roost_operator.demo.scene import AgentState, Phase, Scene
from roost_operator.local.runner import LocalStack

WORKER_AT = 0.2
GATEWAY_AT = 0.45
REDIS_AT = 0.65
"""Share of all steps that are committed before each is killed."""


@dataclass
class Chaos:
    """Kills each of them once, in order, as the agents progress."""

    stack: LocalStack
    scene: Scene
    killed: list[str] = field(default_factory=list)
    """What was killed while steps ran."""

    async def run(self) -> None:
        """Return when everything was killed, or the agents have finished."""
        for name, progress, kill in (
            ("worker", WORKER_AT, self._kill_worker),
            ("gateway", GATEWAY_AT, self._kill_gateway),
            ("redis", REDIS_AT, self._kill_redis),
        ):
            if await self._when(progress, kill):
                self.killed.append(name)

    async def _when(self, progress: float, kill: Callable[[], bool]) -> bool:
        """Retry `kill` once that share of the steps is committed. Returns False when the agents finish first."""
        while self.scene.running:
            if self.scene.progress >= progress and kill():
                return True
            await asyncio.sleep(0.02)
        return False

    def _kill_worker(self) -> bool:
        """Kill the worker that streams to most agents."""
        streaming = [agent for agent in self.scene.streaming() if agent.worker in self.scene.addresses]
        if not streaming:
            return False
        worker = Counter(agent.worker for agent in streaming).most_common(1)[0][0]
        pid = listener(self.scene.addresses[worker])
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        self._tell(f"worker {worker} (process {pid})", [agent for agent in streaming if agent.worker == worker])
        return True

    def _kill_gateway(self) -> bool:
        """Kill the gateway with most streams."""
        streaming = self.scene.streaming()
        if not streaming:
            return False
        number = Counter(agent.gateway for agent in streaming).most_common(1)[0][0]
        gateway = self.stack.gateways[number]
        gateway.kill()
        self._tell(gateway.command.name, [agent for agent in streaming if agent.gateway == number])
        return True

    def _kill_redis(self) -> bool:
        running = self.scene.of(Phase.STREAMING) + self.scene.of(Phase.WAITING)
        if len(running) < 2:
            return False
        self.stack.redis.kill()
        self._tell("Redis", running)
        return True

    def _tell(self, victim: str, agents: Sequence[AgentState]) -> None:
        self.scene.tell(f"SIGKILL to {victim} under {', '.join(agent.name for agent in agents)}")


def listener(address: str) -> int | None:
    """Id of the process that listens on the port of `host:port` on this machine, or None."""
    port = int(address.rsplit(":", 1)[1])
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return connection.pid
    return None
