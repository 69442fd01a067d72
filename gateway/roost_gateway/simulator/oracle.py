"""The offline optimum of retention: evict what is used again last (Bélády). Pure.

All tokens of a session are used again at the same time, in its next step, and each block costs one block of room. So to
evict the session that returns last, from its end, loses the fewest tokens, if the times of requests do not depend on
what is cached (`RecordedEngine`). It minimises tokens, not seconds: later tokens of a context cost more.
"""

from collections.abc import Mapping
from math import inf

from roost_worker.engine.retention import Candidate, Rank, RetentionPolicy


class Belady(RetentionPolicy):
    """Ranks by the next use, which only a simulator knows."""

    def __init__(self, returns: Mapping[str, float]) -> None:
        """`returns` says when each session's next step comes; a session without one does not return."""
        self._returns = returns

    def rank(self, candidate: Candidate, now: float) -> Rank:
        """Return the rank. A prefix without a session goes first: nobody is known to return to it."""
        session = candidate.session
        next_use = inf if session is None else self._returns.get(session, inf)
        return Rank((float(candidate.wanted), -next_use))
