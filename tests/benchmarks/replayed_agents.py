"""Agents of the simulator's workload as clients of a running pool: sizes become text, pauses are slept, tools held.

A session's tokens are the same whatever the pool does: texts follow from its name, outputs have a given length. The
dummy model's tokens are bytes, so sizes are exact; its chat template adds about 20 tokens to each turn.
"""

import asyncio
import random
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from roost import Client, Committed, Delta, Sampling, Step
from roost_gateway.simulator.workload import Session

ROLE = "agent"
TOOL = "shell"


@dataclass(frozen=True, slots=True)
class StepSample:
    """A committed step, as its client saw it."""

    continuation: bool
    """Whether it is not its session's first."""
    first_token_seconds: float
    """From the call to the first delta, waits in queues and after refusals included."""
    seconds: float
    queue_seconds: float
    """What of it the step waited in the gateway that began it."""
    context_tokens: int
    """The log and the step's prompt."""
    cached_tokens: int
    rebuilt_tokens: int
    output_tokens: int
    engine_seconds: float
    """Its share, by tokens, of the time of each batch that it was in."""

    @property
    def rebuild_seconds(self) -> float:
        """What of it went into rebuilt tokens."""
        computed = self.context_tokens - self.cached_tokens + self.output_tokens
        return self.engine_seconds * self.rebuilt_tokens / computed


@dataclass(frozen=True, slots=True)
class SessionSample:
    """A replayed session."""

    steps: tuple[StepSample, ...]

    @property
    def seconds(self) -> float:
        """What its steps took, without the pauses between them."""
        return sum(step.seconds for step in self.steps)


async def replay(clients: Sequence[Client], sessions: Sequence[Session], ramp_seconds: float) -> list[SessionSample]:
    """Replay all sessions at once, through the clients in turn; they begin evenly within `ramp_seconds`.

    Raises RoostError.
    """
    waits = [number * ramp_seconds / len(sessions) for number in range(len(sessions))]
    turns = zip(cycle(clients), sessions, waits, strict=False)
    return await asyncio.gather(*(_session(client, session, wait) for client, session, wait in turns))


async def _session(client: Client, session: Session, wait: float) -> SessionSample:
    await asyncio.sleep(wait)
    handle = await client.open(role=ROLE, system=_text(session.prefix, session.prefix_tokens))
    steps: list[StepSample] = []
    held = False
    for number, turn in enumerate(session.turns):
        if held:
            await handle.hold(tool=TOOL)
        await asyncio.sleep(turn.gap_seconds)
        events = handle.step(
            _text(f"{session.name} {number}", turn.new_tokens),
            sampling=Sampling(temperature=0.0, max_tokens=turn.output_tokens, ignore_eos=True),
        )
        steps.append(await _sample(events, number > 0))
        held = turn.calls_tool
    await handle.delete()
    return SessionSample(tuple(steps))


async def _sample(step: Step, continuation: bool) -> StepSample:
    began, first, committed = time.monotonic(), 0.0, None
    async for event in step:
        if isinstance(event, Delta):
            first = first or time.monotonic()
        elif isinstance(event, Committed):
            committed = event
    assert committed is not None, "a step ends with Committed or raises"
    usage = committed.usage
    return StepSample(
        continuation=continuation,
        first_token_seconds=first - began,
        seconds=time.monotonic() - began,
        queue_seconds=committed.queue_ms / 1e3,
        context_tokens=committed.context_tokens,
        cached_tokens=usage.cached_tokens,
        rebuilt_tokens=usage.reconstructed_tokens,
        output_tokens=usage.output_tokens,
        engine_seconds=usage.gpu_seconds,
    )


def _text(name: str, tokens: int) -> str:
    """A text of so many bytes, which follows from `name` and shares no beginning with that of another name."""
    return "".join(random.Random(name).choices(string.ascii_lowercase, k=tokens))
