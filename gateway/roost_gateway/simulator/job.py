"""A step on its way through the simulated gateway and worker."""

from dataclasses import dataclass

from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.simulator.workload import Turn


@dataclass(slots=True, eq=False)
class Job:
    """One step. Times are seconds of the simulation's clock."""

    session: str
    prefix: str
    shared_tokens: int
    """Leading tokens of the prompt whose KV the session shares with other sessions of its prefix."""
    kept_tokens: int
    """Leading tokens of the prompt that an endless cache would have."""
    prompt_tokens: int
    turn: Turn
    submitted: float
    continuation: bool
    tenant: str = ""
    ticket: Ticket | None = None
    """While the step waits at the gateway."""
    held: bool = False
    """Whether it waits at the gate."""
    held_since: float | None = None
    held_seconds: float = 0.0
    """How long the gate held it; the longest time, if it was refused and came again."""
    forced: bool = False
    """Whether it has passed because it had been held for as long as it may be."""
    lost_log: bool = False
    """Whether its session was live, and too much of the log was evicted while it waited."""
    worker: str = ""
    reserved_tokens: int = 0
    charged: int = 0
    """What its tenant's counter was raised by when it was placed."""
    placed: float = 0.0
    """When a worker was chosen."""
    expected_tokens: int = 0
    """Of the prompt to be computed, as the worker's cache was when the step came there."""
    started: float = 0.0
    """When the worker began to run it."""
    cached_tokens: int = 0
    """Tokens of the prompt whose KV the worker had, on its device or in host memory."""
    restored_blocks: int = 0
    """Blocks of these tokens that came from host memory."""
    offloaded_blocks: int = 0
    """Blocks of others that were copied to host memory to make room for it."""
    first_token: float = 0.0
    """When the first token of the output was there."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.turn.output_tokens

    @property
    def missing_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens
