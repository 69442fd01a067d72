"""The spike: many agents, whose tools end at the same moment, return at once to workers that cannot hold all their KV.

It is played on the main scene's stack, when the agents of that scene have finished.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roost import Client, LoggedStep, RoostError, Sampling, Session, user
from roost_operator.demo.journal import Journal
from roost_operator.demo.recorder import Recorder
from roost_operator.demo.scene import AgentState, Phase, Scene
from roost_operator.demo.tools import FILES, Toolbox

AGENTS = 40
STEPS = 2
"""Steps of each agent: one before its tool runs, one with which it returns."""
JUDGED = 10
"""Agents whose logs the oracle judges, too; all are compared with what their clients received."""
ROLE, SYSTEM = "reviewer", "You review code. Be brief."
TOOL, TOOL_SECONDS = "tests", 5.0
FIRST_TOKENS, RETURN_TOKENS = 4, 8
TEXT_CHARACTERS = 400
"""Of a first message, so that the logs of all agents are more than the workers' KV may hold of live sessions."""


@dataclass(frozen=True)
class Spike:
    """What remains when the agents have returned."""

    journal: Journal
    logs: Mapping[str, Sequence[LoggedStep]]
    """Every session's log, read back at the end."""
    seconds: float
    """Duration of the scene."""
    return_seconds: float
    """From the return of all agents until the last one had its answer."""


async def play_spike(clients: Sequence[Client], toolbox: Toolbox, journal_file: Path, scene: Scene) -> Spike:
    """Have all agents take a step and pause, and then return at once. Raises RoostError when no log can be read."""
    began = time.monotonic()
    scene.tell(f"{AGENTS} more agents begin")
    with Journal(journal_file) as journal:
        agents = [_Agent(number, clients, journal, scene) for number in range(AGENTS)]
        await asyncio.gather(*(agent.begin(toolbox) for agent in agents))
        scene.tell(f"{AGENTS} agents return at once")
        returned = time.monotonic()
        await asyncio.gather(*(agent.come_back() for agent in agents))
        return_seconds = time.monotonic() - returned
    scene.tell(f"all of them have their answers after {return_seconds:.1f} s")
    logs = {agent.session.id: await read_log(clients[0], agent.session) for agent in agents if agent.session}
    return Spike(journal, logs, time.monotonic() - began, return_seconds)


async def read_log(client: Client, session: Session) -> list[LoggedStep]:
    """The session's committed log, with token ids."""
    return [step async for step in client.session(session.id).steps(include_token_ids=True)]


class _Agent:
    """Takes a step, pauses for a tool, and returns with another one."""

    def __init__(self, number: int, clients: Sequence[Client], journal: Journal, scene: Scene) -> None:
        gateway = number % len(clients)
        self.session: Session | None = None
        self._number = number
        self._client = clients[gateway]
        self._state = AgentState(f"spike-{number + 1}", ROLE, gateway)
        self._recorder = Recorder(self._state, Sampling(temperature=0.0), journal, scene)
        self._scene = scene
        scene.crowd[self._state.name] = self._state

    async def begin(self, toolbox: Toolbox) -> None:
        await self._play(self._begin(toolbox))

    async def come_back(self) -> None:
        if self._state.phase is not Phase.FAILED:
            await self._play(self._come_back())

    async def _begin(self, toolbox: Toolbox) -> None:
        question = await asyncio.to_thread(self._question, toolbox)
        self.session = await self._client.open(
            role=ROLE, system=SYSTEM, task="spike", request_id=f"demo-{self._state.name}"
        )
        self._state.session_id = self.session.id
        await self._recorder.step(self.session, 0, [user(question)], FIRST_TOKENS)
        await self.session.hold(tool=TOOL, expect_seconds=TOOL_SECONDS)
        self._state.phase = Phase.TOOL

    def _question(self, toolbox: Toolbox) -> str:
        """Lines of the project's documents, others for each agent."""
        name, page = FILES[self._number % len(FILES)], self._number // len(FILES) + 1
        lines = " / ".join(toolbox.read(name, number) for number in range(page, page + 3))
        return f"{self._number}: {lines}"[:TEXT_CHARACTERS]

    async def _come_back(self) -> None:
        assert self.session is not None
        await self._recorder.step(self.session, 1, [user("The tests have passed. What is next?")], RETURN_TOKENS)
        await self.session.close()
        self._state.phase = Phase.DONE

    async def _play(self, act: Awaitable[None]) -> None:
        try:
            await act
        except RoostError as error:
            self._state.phase = Phase.FAILED
            self._scene.tell(f"{self._state.name} gave up: {error}")
