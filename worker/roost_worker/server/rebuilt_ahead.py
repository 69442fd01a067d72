"""Tokens of sessions' logs that were rebuilt ahead of their steps, and what became of them. Pure."""

from typing import NamedTuple


class _Pending(NamedTuple):
    tokens: int
    end: int
    """Place in the log at which they end."""


class RebuiltAhead:
    """Counts tokens. Those that were rebuilt are used or wasted, or still wait for their session's next step."""

    def __init__(self) -> None:
        self.rebuilt = self.used = self.wasted = 0
        self._pending: dict[str, _Pending] = {}

    @property
    def pending(self) -> int:
        """Tokens that may still be used."""
        return sum(pending.tokens for pending in self._pending.values())

    def of(self, session: str) -> int:
        """Return the tokens of a session that may still be used."""
        pending = self._pending.get(session)
        return pending.tokens if pending else 0

    def add(self, session: str, start: int, end: int) -> None:
        """Note that the tokens of a log from `start` to `end` were rebuilt; none where it ends before it starts."""
        if start < end:
            self.rebuilt += end - start
            self._pending[session] = _Pending(self.of(session) + end - start, end)

    def keep(self, session: str, cached_tokens: int) -> None:
        """Note that no more than the first `cached_tokens` of a session's log are cached now."""
        pending = self._pending.get(session)
        if pending and cached_tokens < pending.end:
            kept = max(0, pending.tokens - (pending.end - cached_tokens))
            self.wasted += pending.tokens - kept
            self._pending[session] = _Pending(kept, cached_tokens)
            if not kept:
                del self._pending[session]

    def use(self, session: str, cached_tokens: int) -> int:
        """Note that a step of the session runs, for which `cached_tokens` were cached. Return how many of these had
        been rebuilt ahead of it."""
        self.keep(session, cached_tokens)
        used = self.of(session)
        self.used += used
        self._pending.pop(session, None)
        return used
