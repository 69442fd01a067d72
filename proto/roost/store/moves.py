"""Moves of sessions from a worker that is about to drain, or that others wait for while another idles: which sessions
are there, who moves them, and a new owner."""

from dataclasses import dataclass
from typing import Protocol

from roost.contract.heads import Head
from roost.store.holds import HoldRecord


@dataclass(frozen=True, slots=True)
class Resident:
    """What moving takes of a session that a worker has cached."""

    session_id: str
    tenant: str
    owner: str
    """Worker that committed the session's last step, or that it has been moved to."""
    log_tokens: int
    model_revision: str
    """Of the log."""
    busy: bool
    """Whether it has a live attempt."""
    closed: bool
    updated_ms: int
    hold: HoldRecord | None = None
    moved_ms: int = 0
    """When it was moved to its owner; 0 when it was never moved."""


@dataclass(frozen=True, slots=True)
class Move:
    """A session whose log's KV was computed at another worker."""

    session_id: str
    gateway: str
    """That moves the sessions of `worker`."""
    worker: str
    """Owner before."""
    to: str
    head: Head
    """End of the log that was computed."""
    generation: int
    request: str
    """Fresh for every move, so that one that is sent again changes nothing."""


class SessionMoves(Protocol):
    """What gateways share about moves. Every call may be repeated, and raises StoreAwayError when Redis does not
    answer."""

    async def claim(self, pool: str, worker: str, gateway: str, lease_ms: int) -> bool:
        """Lets a gateway move a worker's sessions for `lease_ms`, from now; False while another one does, or when they
        are done."""
        ...

    async def finish(self, pool: str, worker: str, gateway: str, keep_ms: int) -> None:
        """Says for `keep_ms` that what is left at the worker cannot be moved, if the gateway has the claim."""
        ...

    async def residents(self, pool: str, worker: str) -> list[Resident]:
        """The sessions that a worker publishes as cached, without those that are gone. Two round trips or more."""
        ...

    async def move(self, move: Move) -> int:
        """Makes another worker the owner of a session, if its log is as it was computed, and returns an epoch for the
        eviction at the old one. One round trip. Refuses: SESSION_NOT_FOUND, SESSION_CLOSED; ANOTHER_STEP_RUNNING when
        it has a live attempt, whether or not the lease of that ran out; HEAD_MISMATCH or SESSION_ROLLED_BACK when its
        log is another; ATTEMPT_FENCED when its owner is another, or another gateway moves the worker's sessions."""
        ...
