"""What a fork is written from."""

from dataclasses import dataclass, field

from roost.contract.heads import Head


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """A place of a log where a step ends, or where it begins."""

    head: Head
    """With its generation."""
    steps: int
    """Steps before it."""


@dataclass(frozen=True, slots=True)
class NewFork:
    """What ForkSession writes: a session with what another one was opened with, and a part of its log."""

    session_id: str
    other: str
    """Session to branch off."""
    tenant: str
    point: CommitPoint | None = None
    """Where to branch off; None: at the head when the fork is written."""
    task: str = ""
    """Empty: the other's."""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
