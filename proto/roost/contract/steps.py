"""A step as its client asks for it. Frozen values. Pure."""

from dataclasses import dataclass, field

from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import Format, Message, Sampling


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of an attempt's output the client has received."""

    attempt: AttemptRef
    tokens: int = 0
    text_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One step of a session. `step_id` is the client's: a step that is sent again keeps it."""

    session_id: str
    step_id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    format: Format | None = None
    expected_head: Head | None = None
    """End of the log as the client knows it; None when it does not say."""
    received: Cursor | None = None
    """Output of an earlier call that the client has; None when it has none."""
