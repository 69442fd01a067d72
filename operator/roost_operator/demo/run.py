"""The demo from start to end: a stack, its agents, what is done to it, and what became of the sessions."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from roost import Client, LoggedStep, RoostError
from roost_operator.demo.agents import Agent, cast
from roost_operator.demo.chaos import Chaos
from roost_operator.demo.journal import Journal
from roost_operator.demo.pools import main_pool
from roost_operator.demo.scene import Scene
from roost_operator.demo.tools import Toolbox
from roost_operator.demo.verify import SessionLog
from roost_operator.local.events import Report
from roost_operator.local.runner import LocalStack, StackOptions

GATEWAYS = 2
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """How the demo is run."""

    sessions: int
    state_dir: Path
    project: Path
    """Folder that the agents' tools search and read."""
    ray: bool = True
    cache_dir: Path | None = None

    @property
    def half_the_cores(self) -> int:
        """Threads of the oracle and of the bf16 worker, which compute at the same time."""
        return max(1, (os.cpu_count() or 1) // 2)

    def stack(self, name: str, *, ray: bool, gateways: int, threads: int | None = None) -> StackOptions:
        """Options of a stack on free ports; `threads` of each worker, None for its share of the cores."""
        return StackOptions(
            state_dir=self.state_dir / name,
            port=0,
            gateways=gateways,
            ray=ray,
            cache_dir=self.cache_dir,
            environment={} if threads is None else {"OMP_NUM_THREADS": str(threads)},
        )


@dataclass(frozen=True)
class Played:
    """What is left when the agents have finished."""

    agents: Sequence[Agent]
    journal: Journal
    logs: Mapping[str, Sequence[LoggedStep]]
    """Every session's log, read back at the end."""
    killed: Sequence[str]
    redis_restarts: int
    model_dir: Path

    @property
    def evicted(self) -> int:
        """Sessions evicted through the API."""
        return sum(agent.evicted_tokens is not None for agent in self.agents)


@contextlib.asynccontextmanager
async def play(
    settings: Settings, scene: Scene, report: Report, stage: AbstractAsyncContextManager[None]
) -> AsyncIterator[Played]:
    """Runs the stack and the agents; kills a worker, a gateway and Redis on the way. `stage` is entered while the
    agents play; the stack stops when this is left. Raises what `LocalStack` does."""
    options = settings.stack("main", ray=settings.ray, gateways=GATEWAYS)
    async with LocalStack(main_pool(), options, report) as stack:
        async with connect_all(stack) as clients, stage:
            with Journal(settings.state_dir / "journal.jsonl") as journal:
                agents = _make_agents(settings, clients, journal, scene)
                killed = await _let_them_play(stack, clients[0], agents, scene)
                logs = await read_logs(clients[0], agents)
        yield Played(agents, journal, logs, killed, stack.redis.restarts, stack.model_dir)


def _make_agents(settings: Settings, clients: Sequence[Client], journal: Journal, scene: Scene) -> list[Agent]:
    """Agents over the clients in turn."""
    toolbox = Toolbox.over(settings.project)
    parts = cast(settings.sessions)
    scene.total_steps = sum(part.steps for part in parts)
    return [
        Agent(part, clients[number % len(clients)], number % len(clients), toolbox, journal, scene)
        for number, part in enumerate(parts)
    ]


async def _let_them_play(stack: LocalStack, client: Client, agents: Sequence[Agent], scene: Scene) -> Sequence[str]:
    """Returns, when all agents have finished, what was killed meanwhile."""
    scene.begin = time.monotonic()
    chaos = Chaos(stack, scene)
    watcher = asyncio.create_task(_watch(stack, client, scene))
    try:
        await asyncio.gather(chaos.run(), *(agent.run() for agent in agents))
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        scene.end = time.monotonic()
    return chaos.killed


@contextlib.asynccontextmanager
async def connect_all(stack: LocalStack) -> AsyncIterator[list[Client]]:
    """A client for each gateway, which goes to that one first and to the others when it dies."""
    async with contextlib.AsyncExitStack() as opened:
        clients = []
        for first in range(len(stack.targets)):
            targets = (*stack.targets[first:], *stack.targets[:first])
            client = await Client.connect(targets, pool=stack.pool.pool)
            clients.append(await opened.enter_async_context(client))
        yield clients


async def _watch(stack: LocalStack, client: Client, scene: Scene) -> None:
    """Keeps workers and tiers of the scene current."""
    while True:
        scene.see_leases(await stack.leases())
        with contextlib.suppress(RoostError):
            scene.tiers = {info.id: str(info.tier or "?") async for info in client.sessions()}
        await asyncio.sleep(_LOOK_SECONDS)


async def read_logs(client: Client, agents: Sequence[Agent]) -> dict[str, list[LoggedStep]]:
    """The committed log of every session that was opened, with token ids."""
    sessions = [agent.session for agent in agents if agent.session is not None]
    return {
        session.id: [step async for step in client.session(session.id).steps(include_token_ids=True)]
        for session in sessions
    }


def session_logs(agents: Sequence[Agent], logs: Mapping[str, Sequence[LoggedStep]]) -> list[SessionLog]:
    """Each agent's log, with the tools that its calls were constrained by."""
    return [SessionLog(logs[agent.session.id], agent.part.tools) for agent in agents if agent.session is not None]
