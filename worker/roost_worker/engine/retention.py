"""Which cached KV leaves first: what a policy is asked and what is reported to it, and the policies that only go by
recency. A policy ranks and learns; the cache evicts. `policies.py` has all of them by name.
"""

from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

UNKNOWN_HOLD_SECONDS = 60.0
"""How long a hold spares a session when the client does not know how long it pauses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """KV that can be evicted: a session's parked sequence, or a loose run (blocks that no sequence refers to)."""

    session: str | None
    """None for a loose run."""
    last_used: float
    held_until: float = 0.0
    """When the session's hold ends; a session whose time has passed is not on hold."""
    wanted: bool = False
    """Whether a request of the session waits to run."""
    tokens: int = 0
    """Tokens whose KV it has. Blocks that other sequences share stay when it goes."""
    tool: str = ""
    """Tool that the session's last hold named, even if that hold is over; empty without a hold or a tool's name."""
    expect_seconds: float = 0.0
    """Seconds that the client expected that hold to last; 0 when it did not know."""
    role: str = ""
    """Role of the session in its pool; empty for a loose run."""


class Rank(NamedTuple):
    """A candidate's place in the order of eviction: the lowest is evicted first."""

    order: tuple[float, ...]
    """All ranks of a policy have the same length."""
    until: float = inf
    """When the cache asks again even if the candidate has not changed."""


@dataclass(frozen=True, slots=True)
class Return:
    """A request that was just admitted to run for the first time, and what the cache still had of its context."""

    session: str | None
    submitted: float
    context_tokens: int
    cached_tokens: int
    """Tokens of the context whose KV was still cached. A session that lost its KV comes back with few or none."""
    used: tuple[Candidate, ...]
    """The candidates that the KV was taken from, as they were just before."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """KV that was just dropped."""

    candidate: Candidate
    """As it was just before."""
    tokens: int
    """Tokens taken from the candidate's end; what is left of it is ranked again."""
    requested: bool
    """Whether the gateway asked for it (Evict). Otherwise room was needed and this candidate had the lowest rank."""


class RetentionPolicy(Protocol):
    """Ranks candidates. Derive from this class to inherit the hooks, which do nothing.

    The candidate with the lowest rank is evicted first, as many blocks as are needed, from its end, so that what stays
    is still a prefix. Running sequences are never candidates. Every candidate can be evicted: a rank delays an
    eviction, it does not forbid it.

    The cache asks for a rank when a candidate appears, when one of its fields changes, and when `Rank.until` has
    passed, so that an eviction among n candidates costs O(log n). A rank may depend on the arguments and on what the
    hooks have reported, never on a clock or on chance. When a report changes how a policy ranks, each candidate keeps
    its rank until the cache asks again: limit its age with `Rank.until`.
    """

    def rank(self, candidate: Candidate, now: float) -> Rank:
        """Return the rank of `candidate`. Times are in seconds of the engine's clock."""
        ...

    def came_back(self, event: Return, now: float) -> None:
        """Learn from a request that was admitted."""
        return

    def evicted(self, event: Eviction, now: float) -> None:
        """Learn from an eviction."""
        return


class Lru(RetentionPolicy):
    """Least recently used first, on hold or not; sessions about to run last."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        return Rank((float(candidate.wanted), candidate.last_used))


class LruSparingHeld(RetentionPolicy):
    """Least recently used first, but sessions on hold after all others, and sessions about to run last of all."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        held = candidate.held_until > now
        order = (float(candidate.wanted), float(held), candidate.last_used)
        return Rank(order, candidate.held_until if held else inf)
