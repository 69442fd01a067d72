"""What comes back: sessions, steps of a log, events of a step. Frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from roost._messages import Format, Message, Sampling, ToolCall
from roost.contract import heads


class SessionState(StrEnum):
    """A session's place in its life."""

    ACTIVE = "active"
    CLOSED = "closed"


class Tier(StrEnum):
    """Where a session's KV cache is."""

    HOT = "hot"
    """On a worker's device."""
    WARM = "warm"
    """In a worker's host memory or on its disk."""
    COLD = "cold"
    """Nowhere: the next step rebuilds it."""


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    """The model ended its turn, a stop was met, or the constrained value is complete."""
    LENGTH = "length"
    """`max_tokens` or the context was reached."""
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Head(heads.Head):
    """End of a committed log: tokens, and their hash (16 bytes, empty for an empty log)."""

    generation: int = 0
    """Number of the log that it ends; 0 when that is not known."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    prompt_tokens: int = 0
    """Prompt tokens that were new to the log."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the context found in a worker's cache."""
    reconstructed_tokens: int = 0
    """Tokens of the context that were computed again although the log already held them."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A pause that the client announced."""

    tool: str
    expect_seconds: float
    begin_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is known of one session. Times are UTC."""

    id: str
    pool: str
    role: str
    task: str
    parent: str
    """Session that spawned this one; empty when none did."""
    model: str
    model_revision: str
    generation: int
    """Number of the current log, from 1."""
    head: Head
    state: SessionState | None
    """None when the gateway is newer than this SDK and knows another state."""
    tier: Tier | None
    worker: str
    """Worker that holds the KV cache; empty when COLD."""
    cached_tokens: int
    hold: Hold | None
    steps: int
    """Committed steps in the current generation."""
    usage: Usage
    budget_remaining_tokens: int | None
    """None when the role has no budget."""
    running_step_id: str
    """Empty when no step runs."""
    create_time: datetime | None
    update_time: datetime | None
    expire_time: datetime | None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """One committed step of a session's log."""

    step_id: str
    index: int
    """Number of the step in its generation, from 0."""
    messages: tuple[Message, ...]
    output: Message
    finish_reason: FinishReason | None
    usage: Usage
    head: Head
    """Log after the step."""
    sampling: Sampling
    """The seed is always set."""
    format: Format | None
    prompt_token_ids: tuple[int, ...]
    """Empty unless asked for."""
    output_token_ids: tuple[int, ...]
    """Empty unless asked for."""
    commit_time: datetime | None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one drawn token, and its most likely alternatives, best first."""

    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """The step waits for room."""

    position: int
    """Steps before it in this gateway's queue."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun, or taken over."""

    worker: str
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the context that the worker expected to find in its cache."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New output, provisional until `Committed`. Pieces come in order, without gap or repetition."""

    text: str
    """It lags behind the ids while a character or a stop string may be incomplete."""
    token_ids: tuple[int, ...]
    token_offset: int
    """Tokens before these."""
    text_offset: int
    """UTF-8 bytes of text before this text."""
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarted:
    """All output of the step so far is void; it comes again from the start."""

    reason: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The pool's model changed, and the session's log was rendered anew for it; the step goes on in the new log. The
    old one stays readable: `Session.steps(generation=…)`."""

    from_revision: str
    to_revision: str
    generation: int
    """Number of the new log."""
    head: Head
    """End of the new log, before this step."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The step is durable. Always the last event."""

    step_id: str
    output: Message
    finish_reason: FinishReason | None
    usage: Usage
    head: Head
    """Log after the step."""
    index: int
    """Number of the step in its generation, from 0."""
    queue_ms: int
    """Milliseconds spent waiting for room."""
    first_token_ms: int
    """Milliseconds from the gateway's receipt to its first delta."""
    seed: int
    replayed: bool
    """True when the step had been committed before this call reached the gateway that answered."""
    output_tokens: int
    failovers: int
    """Times another worker had to continue the step."""


Event = Queued | Migrated | Started | Delta | Restarted | Committed
"""What `Session.step` yields."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A whole step, as `Session.run` and `Step.result` collect it."""

    committed: Committed
    text: str
    """Everything the model wrote, with tool calls as it wrote them; `content` is the text without them."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each id, when asked for; empty for a step that had been committed before."""
    migrated: Migrated | None = None
    """What the session went through before the step, if the pool's model has changed."""

    @property
    def content(self) -> str:
        """The message's text, without tool calls."""
        return self.committed.output.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.committed.output.tool_calls

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.committed.finish_reason

    @property
    def usage(self) -> Usage:
        return self.committed.usage

    @property
    def step_id(self) -> str:
        return self.committed.step_id
