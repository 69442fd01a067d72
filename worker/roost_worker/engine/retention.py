"""What leaves the cache first. The seam for learned policies: a policy ranks, the cache evicts."""

from dataclasses import dataclass
from typing import Protocol

UNKNOWN_HOLD_SECONDS = 60.0
"""How long a hold spares a session when the client does not know how long it pauses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can be evicted: a session's parked sequence, or a cached block that no session holds."""

    session: str | None
    """None for a block that no session holds."""
    last_used: float
    held_until: float = 0.0
    wanted: bool = False
    """Whether a request of the session waits to run."""


class RetentionPolicy(Protocol):
    """Ranks candidates. A pure function of its arguments: equal arguments give equal ranks, times are passed in.

    Of all candidates the one with the lowest rank goes first. Of a parked sequence as many blocks go as are needed,
    from its end, so that what stays is still a prefix; it is ranked again before the next blocks go. Sequences that
    run are never candidates. Every candidate can be evicted: a rank delays, it does not forbid.
    """

    def rank(self, candidate: Candidate, now: float) -> tuple[float, ...]:
        """Rank of `candidate`; all ranks of a policy have the same length."""
        ...


class LruSparingHeld:
    """Least recently used first, but sessions on hold after all others and sessions about to run last of all."""

    def rank(self, candidate: Candidate, now: float) -> tuple[float, ...]:
        return (float(candidate.wanted), float(candidate.held_until > now), candidate.last_used)
