"""A session and the steps of its log, as its owner opens, lists and reads them. Frozen values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from roost.contract.budgets import BudgetStatus
from roost.contract.events import FinishReason, Usage
from roost.contract.heads import Head
from roost.contract.messages import Format, Message, Sampling, ToolDefinition
from roost.contract.why import Why


class SessionState(StrEnum):
    """A session's place in its life."""

    ACTIVE = "active"
    CLOSED = "closed"


class Tier(StrEnum):
    """Where a session's KV cache is."""

    HOT = "hot"
    """On a worker's device."""
    WARM = "warm"
    """In a worker's host memory, and nothing of it on the device."""
    COLD = "cold"
    """Nowhere: the next step rebuilds it."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A new session, as its client asks for it; not checked yet."""

    pool: str = ""
    """`namespace/name`; empty: the only pool of the caller."""
    role: str = ""
    """Empty: the pool's first role."""
    system: str = ""
    tools: tuple[ToolDefinition, ...] = ()
    task: str = ""
    """Empty: the parent's, if there is one."""
    parent: str = ""
    """Session that spawns this one; empty when none does."""
    request_id: str = ""
    """Idempotency key: a repeated call returns the same session. Empty: none."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A new session that shares the log of another one up to a head, as its client asks for it; not checked yet."""

    session_id: str
    """Session to branch off."""
    at: Head | None = None
    """A head that it has or had; None: its head when the fork is written."""
    request_id: str = ""
    """Idempotency key: a repeated call returns the same session. Empty: none."""
    task: str = ""
    """Empty: that of the session to branch off."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoldRequest:
    """A summary in place of the first steps of a session's log, as its client asks for it; not checked yet."""

    session_id: str
    summary: str = ""
    """Empty: the pool's model writes it."""
    keep_turns: int = 0
    """Last turns that stay as they are. A turn is a step that begins with a user's message, and those that follow it
    with tools' results."""
    expected_head: Head | None = None
    request_id: str = ""
    """Idempotency key: a repeated call folds once. Empty: none."""


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a session branches off another one."""

    session_id: str
    """Session that it was branched off, which may be gone by now."""
    head: Head
    """Head of that session's log up to which the two share it."""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which sessions to list. Empty texts select all."""

    pool: str = ""
    """`namespace/name`; empty: the only pool of the caller."""
    state: str = ""
    """A `SessionState` value, empty for any; other texts match nothing."""
    tier: str = ""
    """A `Tier` value, empty for any; other texts match nothing."""
    role: str = ""
    task: str = ""
    page_size: int = 0
    """0 is the gateway's choice."""
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """A pause that the client announced."""

    tool: str
    expect_seconds: float
    begin_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionTool:
    """A session's tool, and whether calls that a format requires are held to its schema."""

    name: str
    constrained: bool | None = None
    """Whether all of the schema is enforced while a required call is written. False: the part that can be is, and a
    call that breaks the rest is text, with a warning. None: not checked, since no worker answered when the session was
    opened."""
    keyword: str = ""
    """First keyword that is not enforced, as a JSON pointer into the schema; empty unless `constrained` is False."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session's record. Times are UTC."""

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
    tools: tuple[SessionTool, ...] = ()
    """In the order in which they were given; empty in lists of sessions."""
    forked_from: ForkPoint | None = None
    """None when it was opened."""
    budgets: tuple[BudgetStatus, ...] = ()
    """What the session itself has used of its role's budgets."""


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
    reasoning: str = ""
    """What the model wrote between its thinking marks. It is not part of `output`."""
    why: Why | None = None
    """Why it waited, and why tokens were rebuilt; None for a step of an older gateway."""
    reasoning_tokens: int = 0
    """Output tokens that the reasoning took, its marks included."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """One page of a list of sessions, oldest first."""

    sessions: tuple[SessionInfo, ...]
    next_page_token: str = ""
    """Empty on the last page."""


@dataclass(frozen=True, slots=True)
class StepPage:
    """One page of a session's log, oldest step first."""

    steps: tuple[LoggedStep, ...]
    next_page_token: str = ""
    """Empty on the last page."""
