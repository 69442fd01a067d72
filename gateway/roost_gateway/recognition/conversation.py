"""A request of an API whose clients send their history again, and what it was recognised as. Frozen values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from roost.contract.budgets import BudgetStatus
from roost.contract.messages import Format, Message, Sampling, ToolDefinition
from roost.contract.steps import Deltas, StepName
from roost.store.kept_conversations import KeptConversation


@dataclass(frozen=True, slots=True)
class Conversation:
    """One step of a conversation, as its client sees it: all of its history, and no session."""

    model: str
    """Name or alias of a pool's model, or `namespace/name` of a pool; empty: the only pool of the caller."""
    system: str = ""
    """All system and developer text before the first other message. With `previous`, what it begins with, or nothing:
    the rest is the session's."""
    tools: tuple[ToolDefinition, ...] = ()
    messages: tuple[Message, ...] = ()
    """History and what is new, oldest first. System messages may stand anywhere; assistant messages have the client's
    echo of text and calls, without reasoning. With `previous`, only what is new."""
    sampling: Sampling = field(default_factory=Sampling)
    format: Format | None = None
    deltas: Deltas = Deltas.INTERVAL
    """How often the output of its step comes."""
    family: str = ""
    """The id that the client's conversation goes by, at most 256 bytes; empty without one. Branches (title calls,
    sub-agents, what follows a compaction) share it."""
    previous: StepName | None = None
    """The committed step that the request continues by name, as `previous_response_id` does."""
    is_retry: bool = False
    """Whether the client says that it has sent the same request before."""
    role: str = ""
    """Role of the pool; empty: its first."""
    epoch: str = ""
    """Conversations of one epoch have nothing to do with those of another."""
    kept: KeptConversation | None = None
    """The conversation of a client that the step continues, as it was read: `previous` and `messages` have what it
    has."""


class Match(StrEnum):
    """What a conversation was recognised as."""

    CONTINUED = "continued"
    """It extends a session from its head."""
    FORKED = "forked"
    """It extends a session from an earlier commit, in a session of its own."""
    IMPORTED = "imported"
    """A new session was given a history that no session has."""
    NEW = "new"
    """A new session, without history."""
    ATTACHED = "attached"
    """It is a step that runs, or has been committed, already."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """The session in which a conversation's step runs."""

    session_id: str
    step_id: str
    match: Match
    log_tokens: int
    """Tokens of the session's log before the step."""
    reason: str = ""
    """Why a history did not continue a session: which message differs, or which rule. Empty when it did."""
    budgets: tuple[BudgetStatus, ...] = ()
    """Budgets to warn of when the step began."""
