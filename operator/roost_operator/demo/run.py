"""The demo's main scene: a stack and its agents, while parts of the stack are killed, and the sessions' logs."""

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
from roost_operator.demo.spike import Spike, play_spike, read_log
from roost_operator.demo.tools import Toolbox
from roost_operator.demo.verify import CommittedLog
from roost_operator.local.events import Report
from roost_operator.local.runner import LocalStack, StackOptions

GATEWAYS = 2
_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class DemoOptions:
    """How to run the demo."""

    sessions: int
    state_dir: Path
    project: Path
    """Folder that the agents' tools search."""
    ray: bool = True
    cache_dir: Path | None = None

    @property
    def half_the_cores(self) -> int:
        """Threads for the oracle and for the bf16 worker, which run at the same time."""
        return max(1, (os.cpu_count() or 1) // 2)

    def stack(self, name: str, *, ray: bool, gateways: int, threads: int | None = None) -> StackOptions:
        """Options of a stack on free ports, with `threads` for each worker, or None for its share of the cores."""
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
    """What remains when the agents have finished."""

    agents: Sequence[Agent]
    journal: Journal
    logs: Mapping[str, Sequence[LoggedStep]]
    """Every session's log, read back at the end."""
    killed: Sequence[str]
    redis_restarts: int
    model_dir: Path
    spike: Spike
    hold_limit_seconds: float
    """Longest time for which the pool holds a step while the working set is full."""

    @property
    def evicted(self) -> int:
        """Sessions evicted through the API."""
        return sum(agent.evicted_tokens is not None for agent in self.agents)


@contextlib.asynccontextmanager
async def play(
    options: DemoOptions, scene: Scene, report: Report, stage: AbstractAsyncContextManager[None]
) -> AsyncIterator[Played]:
    """Run the stack and the agents, and kill a worker, a gateway and Redis on the way; then play the spike.

    `stage` is entered while the agents play. The stack stops on exit. Raises what `LocalStack` does.
    """
    stack_options = options.stack("main", ray=options.ray, gateways=GATEWAYS)
    async with LocalStack(main_pool(), stack_options, report) as stack:
        async with connect_all(stack) as clients, stage, _watching(stack, clients[0], scene):
            toolbox = Toolbox.over(options.project)
            with Journal(options.state_dir / "journal.jsonl") as journal:
                agents = _make_agents(options, clients, toolbox, journal, scene)
                killed = await _play_all(stack, agents, scene)
                logs = await read_logs(clients[0], agents)
            spike = await play_spike(clients, toolbox, options.state_dir / "journal-spike.jsonl", scene)
        hold_limit = float(stack.pool.spec.admission.max_hold_seconds)
        yield Played(agents, journal, logs, killed, stack.redis.restarts, stack.model_dir, spike, hold_limit)


def _make_agents(
    options: DemoOptions, clients: Sequence[Client], toolbox: Toolbox, journal: Journal, scene: Scene
) -> list[Agent]:
    """The agents, with the clients assigned in turn."""
    parts = cast(options.sessions)
    scene.total_steps = sum(part.steps for part in parts)
    return [
        Agent(part, clients[number % len(clients)], number % len(clients), toolbox, journal, scene)
        for number, part in enumerate(parts)
    ]


async def _play_all(stack: LocalStack, agents: Sequence[Agent], scene: Scene) -> Sequence[str]:
    """Wait for all agents to finish; returns what was killed in that time."""
    scene.begin = time.monotonic()
    chaos = Chaos(stack, scene)
    try:
        await asyncio.gather(chaos.run(), *(agent.run() for agent in agents))
    finally:
        scene.end = time.monotonic()
    return chaos.killed


@contextlib.asynccontextmanager
async def connect_all(stack: LocalStack) -> AsyncIterator[list[Client]]:
    """A client for each gateway, which turns to the other gateways when its own dies."""
    async with contextlib.AsyncExitStack() as opened:
        clients = []
        for first in range(len(stack.targets)):
            targets = (*stack.targets[first:], *stack.targets[:first])
            client = await Client.connect(targets, pool=stack.pool.pool)
            clients.append(await opened.enter_async_context(client))
        yield clients


@contextlib.asynccontextmanager
async def _watching(stack: LocalStack, client: Client, scene: Scene) -> AsyncIterator[None]:
    watcher = asyncio.create_task(_watch(stack, client, scene))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _watch(stack: LocalStack, client: Client, scene: Scene) -> None:
    """Keep the scene's workers and tiers up to date."""
    while True:
        scene.see_leases(await stack.leases())
        with contextlib.suppress(RoostError):
            scene.tiers = {info.id: str(info.tier or "?") async for info in client.sessions()}
        await asyncio.sleep(_WATCH_SECONDS)


async def read_logs(client: Client, agents: Sequence[Agent]) -> dict[str, list[LoggedStep]]:
    """The committed log of every session that was opened, with token ids."""
    sessions = [agent.session for agent in agents if agent.session is not None]
    return {session.id: await read_log(client, session) for session in sessions}


def session_logs(agents: Sequence[Agent], logs: Mapping[str, Sequence[LoggedStep]]) -> list[CommittedLog]:
    """Each agent's log, with its tools, whose schemas constrained its calls."""
    return [CommittedLog(logs[agent.session.id], agent.part.tools) for agent in agents if agent.session is not None]
