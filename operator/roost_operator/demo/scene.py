"""The state of the demo: agents write it; chaos and the live table read it. Pure."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from roost.contract.lease import WorkerLease


class Phase(StrEnum):
    """What an agent is doing."""

    IDLE = "idle"
    WAITING = "waiting"  # sent, no token yet
    STREAMING = "streaming"
    TOOL = "tool"  # on hold while its tool runs
    DONE = "done"
    FAILED = "failed"


@dataclass
class AgentState:
    """The visible state of an agent."""

    name: str
    role: str
    gateway: int
    """Gateway that its client prefers."""
    session_id: str = ""
    phase: Phase = Phase.IDLE
    worker: str = ""
    step_tokens: int = 0
    """Tokens received of the running step."""
    steps: int = 0
    text: str = ""
    longest_wait: float = 0.0
    """Seconds that a step of it waited in a gateway."""


@dataclass
class Scene:
    """All agents, workers and events."""

    agents: dict[str, AgentState] = field(default_factory=dict)
    crowd: dict[str, AgentState] = field(default_factory=dict)
    """The agents of the spike."""
    tiers: dict[str, str] = field(default_factory=dict)
    """Tier of each session, from the last ListSessions."""
    leases: list[WorkerLease] = field(default_factory=list)
    """Leases of live workers."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Address of every worker so far."""
    total_steps: int = 0
    happenings: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    begin: float = field(default_factory=time.monotonic)
    end: float = 0.0
    """When the agents began and when they had finished, by `time.monotonic`."""
    on_stage: bool = False
    """True while the agents play."""
    on_happening: Callable[[str], None] = lambda line: None

    @property
    def committed(self) -> int:
        """Steps committed so far."""
        return sum(agent.steps for agent in self.agents.values())

    @property
    def progress(self) -> float:
        """Share of all steps that are committed."""
        return self.committed / self.total_steps if self.total_steps else 0.0

    @property
    def running(self) -> bool:
        """Whether any agent still has something to do."""
        return any(agent.phase not in (Phase.DONE, Phase.FAILED) for agent in self.agents.values())

    def streaming(self, tokens: int = 3) -> list[AgentState]:
        """Agents whose running step has brought at least `tokens` tokens."""
        return [a for a in self.agents.values() if a.phase is Phase.STREAMING and a.step_tokens >= tokens]

    def of(self, phase: Phase) -> list[AgentState]:
        """Agents in a phase."""
        return [agent for agent in self.agents.values() if agent.phase is phase]

    def see_leases(self, leases: list[WorkerLease]) -> None:
        """Update the live workers."""
        known = {lease.worker_id for lease in self.leases}
        for lease in leases:
            if self.leases and lease.worker_id not in known:
                self.tell(f"worker {lease.worker_id} has joined")
            self.addresses[lease.worker_id] = lease.address
        self.leases = leases or self.leases

    def tell(self, text: str) -> None:
        """Record an event."""
        line = f"{time.monotonic() - self.begin:6.1f} s  {text}"
        self.happenings.append(line)
        self.on_happening(line)
