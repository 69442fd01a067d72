"""A step as its client requests it. Frozen values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import Format, Message, Sampling


@dataclass(frozen=True, slots=True)
class StepName:
    """A step of a session, committed or not."""

    session_id: str
    step_id: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of an attempt's output the client has received."""

    attempt: AttemptRef
    tokens: int = 0
    text_bytes: int = 0
    parts: int = 0
    """Units of parts, as `roost.contract.parts` counts them."""


class Deltas(StrEnum):
    """How often the output of a step comes, as `Delta`."""

    NONE = "none"
    """Once, all of it, when the step is committed."""
    INTERVAL = "interval"
    """The first token at once, and then what has gathered every `INTERVAL_SECONDS`."""
    EACH = "each"
    """With each iteration of the engine."""


INTERVAL_SECONDS = 0.05
CHECKPOINT_SECONDS = 0.5
"""How often a worker sends its gateway output that the client gets at the end. What came so is not generated again when
the worker dies."""
GRID_SECONDS = 0.01
"""Output that gathers is due at multiples of this, so that the outputs of many steps are due, and sent, together."""


def gathered_by(now: float, seconds: float) -> float:
    """When output is due that gathers from `now` on, in seconds of the same clock: at the last point of the grid that
    `seconds` reach."""
    return (now + seconds) // GRID_SECONDS * GRID_SECONDS


@dataclass(frozen=True, slots=True)
class StepRequest:
    """A step of a session. A client that sends the step again keeps `step_id`. A gateway checks it with
    `roost.contract.requests`."""

    session_id: str
    step_id: str
    messages: tuple[Message, ...]
    """What is new. Assistant messages are history that the log does not have, and never the last message."""
    sampling: Sampling = field(default_factory=Sampling)
    format: Format | None = None
    expected_head: Head | None = None
    """End of the log as the client knows it; None when the client does not say."""
    received: Cursor | None = None
    """Output that the client has from an earlier call; None without any."""
    deltas: Deltas = Deltas.INTERVAL
    """How often output comes. A retry may ask for another pace."""
