"""The events of a step, from Queued to Committed. Frozen values. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from roost.contract.budgets import BudgetStatus
from roost.contract.heads import NO_ATTEMPT, AttemptRef, Head
from roost.contract.messages import Message
from roost.contract.repetition import Repetition
from roost.contract.why import WAITED_FOR, WaitReason, Why


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    """The model ended its turn, a stop string or id was met, or the constrained value is complete."""
    LENGTH = "length"
    """`max_tokens` or the context was reached."""
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    prompt_tokens: int = 0
    """New prompt tokens, which the log did not hold."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the context that the worker found in its cache."""
    reconstructed_tokens: int = 0
    """Tokens of the log that were not cached and had to be computed again."""
    gpu_seconds: float = 0.0
    """Seconds of the worker's devices, times the ranks; 0 from a worker that does not measure it."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one drawn token, and its most likely alternatives, best first."""

    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """The step waits."""

    position: int
    """Steps before it in this gateway's queue."""
    reason: WaitReason | None = None
    """None when the gateway does not say, or knows another reason than this version."""
    continuation: bool = False
    """Whether it is of the class of continuations, which go before new sessions."""
    estimate_seconds: float = 0.0
    """How long it may wait, as steps were served of late; 0 when that is not known."""
    live_tokens: int = 0
    """KV that live sessions need at its worker, when that is the reason."""
    live_limit_tokens: int = 0
    """How much that may be."""

    @property
    def explanation(self) -> str:
        """The reason in words; empty when that is not known."""
        if self.reason is WaitReason.WORKING_SET:
            return f"working set: {_rounded(self.live_tokens)} of {_rounded(self.live_limit_tokens)} tokens live"
        return WAITED_FOR[self.reason] if self.reason else ""


def _rounded(tokens: int) -> str:
    if tokens < 10_000:
        return str(tokens)
    return f"{tokens / 1e6:.1f}M" if tokens >= 1_000_000 else f"{tokens / 1e3:.0f}k"


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun the step, or has taken it over."""

    worker: str
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the context that the worker expected to find in its cache."""
    attempt: AttemptRef = field(default=NO_ATTEMPT, compare=False)
    """Attempt whose output follows."""
    why: Why | None = None
    """What is known so far, or None; `Committed.why` has the whole of it."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Text that the model writes between its thinking marks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A tool call begins; its arguments follow."""

    index: int
    """Number of the call in the step's output, from 0. Calls that broke off count."""
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """More of a call's `arguments_json`."""

    index: int
    text: str


Part = TextPart | ReasoningPart | CallPart | ArgumentsPart
"""A piece of a step's output, with marks of thinking and of calls taken out."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New output, provisional until `Committed`. Deltas come in order, without gaps or repetitions."""

    text: str
    """What the model writes, with its thinking, its tool calls and their marks; `Committed` separates them. It may lag
    behind the ids while a character or a possible stop string is incomplete."""
    token_ids: Sequence[int]
    token_offset: int
    """Number of tokens before these."""
    text_offset: int
    """Number of UTF-8 bytes of text before this text."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    attempt: AttemptRef = field(default=NO_ATTEMPT, compare=False)
    parts: tuple[Part, ...] = ()
    """The text as text, reasoning and calls. It may lag behind `text` while a mark or a call's name is incomplete; the
    last delta may have parts only. Text and reasoning of all parts of a step are the content and reasoning of
    `Committed`, and its calls are those of the parts, by their ids, but for calls that broke off: a call that
    `max_tokens` cuts off, or whose JSON or format breaks, comes as text after what came of it, and `Committed` does not
    have it."""
    part_offset: int = 0
    """Number of units of parts before these (`roost.contract.parts`)."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """All output of the step so far is void; the output starts again."""

    reason: str
    """For people."""
    attempt: AttemptRef = field(default=NO_ATTEMPT, compare=False)
    """Attempt whose output follows."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The session's log was rendered again, and the step continues in the new log: because the pool's model has
    changed, or, if both revisions are the same, without the thinking of earlier turns (`thinking: drop` in the pool).
    The old log stays readable with `Session.steps(generation=…)`."""

    from_revision: str
    to_revision: str
    generation: int
    """Number of the new log."""
    head: Head
    """End of the new log, before this step."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The step is durable. It is always the last event."""

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
    """Whether the step had been committed before this call."""
    output_tokens: int
    failovers: int
    """How many times another worker had to continue the step."""
    warnings: tuple[str, ...] = ()
    """Why text of the output that looks like a tool call is not one, as when the session lacks the tool."""
    reasoning: str = ""
    """What the model wrote between its thinking marks. It is not part of `output`."""
    stop_string: str = ""
    """The one of `Sampling.stop` that ended the output; empty when another thing did."""
    why: Why | None = None
    """Why it waited, and why tokens were rebuilt; None for a step of an older gateway."""
    reasoning_tokens: int = 0
    """Output tokens that the reasoning took, its marks included."""
    budgets: tuple[BudgetStatus, ...] = ()
    """Budgets that are used up, or of which as much is used as the role warns at; empty for a replayed step."""
    repetition: Repetition | None = None
    """What the step's calls repeat, if the role notices that; None for a replayed step."""

    @property
    def context_tokens(self) -> int:
        """Tokens of the log before the output: the earlier log and the step's prompt."""
        return self.head.length - self.usage.output_tokens


Event = Queued | Migrated | Started | Delta | Restarted | Committed
"""What `Session.step` yields."""
