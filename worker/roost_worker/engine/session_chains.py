"""What is cached of each session's log, wherever it is: on the device or in host memory."""

from collections.abc import Callable, Sequence


class SessionChains:
    """Per session the keys of its log's full blocks, from the first one to the last whose KV is cached.

    A block's key stands for everything before the block, so that equal keys of two sessions are equal prefixes.
    """

    def __init__(self) -> None:
        self._chains: dict[str, list[bytes]] = {}
        self._sessions: dict[bytes, set[str]] = {}
        self._changed: dict[str, None] = {}

    def blocks(self, session: str) -> int:
        """Return the length of the session's chain; 0 when it has none."""
        return len(self._chains.get(session, ()))

    def put(self, session: str, keys: Sequence[bytes]) -> list[bytes]:
        """Replace the session's chain. Return the keys of the old one that no session has any more."""
        chain = self._chains.get(session, [])
        common = len(chain)
        while common and not (common <= len(keys) and keys[common - 1] == chain[common - 1]):
            common -= 1
        removed = self._cut(session, common)
        if len(keys) > common:
            self._chains.setdefault(session, []).extend(keys[common:])
            for key in keys[common:]:
                self._sessions.setdefault(key, set()).add(session)
            self._changed[session] = None
        return removed

    def cut_before(self, key: bytes) -> list[bytes]:
        """End all chains before the block under `key`, whose KV is not cached any more.

        Return the keys behind it that no session has any more.
        """
        removed: list[bytes] = []
        for session in tuple(self._sessions.get(key, ())):
            removed += self._cut(session, _last_index(self._chains[session], key))
        return [other for other in removed if other != key]

    def take_changed(self) -> list[str]:
        """Return the sessions whose chain has changed since the last call."""
        changed, self._changed = list(self._changed), {}
        return changed

    def check_integrity(self, cached: Callable[[bytes], bool]) -> None:
        """Raise AssertionError unless chains and keys agree, and `cached` is true of each key."""
        sessions: dict[bytes, set[str]] = {}
        for session, chain in self._chains.items():
            assert chain, f"{session} has an empty chain"
            assert len(set(chain)) == len(chain), f"{session} has a block twice"
            for key in chain:
                sessions.setdefault(key, set()).add(session)
        assert sessions == self._sessions, "chains and keys disagree"
        assert all(map(cached, sessions)), "a chain has a block that is not cached"

    def _cut(self, session: str, blocks: int) -> list[bytes]:
        """Keep the first `blocks` keys of a chain. Return the others that no session has any more."""
        chain = self._chains.get(session, [])
        dropped = chain[blocks:]
        if not dropped:
            return []
        del chain[blocks:]
        if not chain:
            del self._chains[session]
        self._changed[session] = None
        for key in dropped:
            self._sessions[key].discard(session)
        unused = [key for key in dropped if not self._sessions[key]]
        for key in unused:
            del self._sessions[key]
        return unused


def _last_index(chain: Sequence[bytes], key: bytes) -> int:
    """Return where `key` is in `chain`. Sought from the end, where blocks leave first: chains have thousands."""
    return next(index for index in range(len(chain) - 1, -1, -1) if chain[index] == key)
