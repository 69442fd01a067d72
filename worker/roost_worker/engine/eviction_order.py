"""The order in which candidates are evicted, kept up to date one change at a time."""

import heapq
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from roost_worker.engine.retention import Candidate, RetentionPolicy

Key = str | int
"""A session's name for its parked sequence, or the number of a loose run."""

_STALE_ENTRIES = 16
"""How many stale entries a heap may keep, however few are live."""


class KeyedHeap:
    """A heap whose keys can be moved and removed in O(log n), amortised.

    A moved or removed key leaves its old entry behind, which is skipped when it comes up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, Key]] = []
        self._versions: dict[Key, int] = {}
        self._count = count()

    def __len__(self) -> int:
        return len(self._versions)

    def put(self, key: Key, order: Any) -> None:
        """Add `key`, or move it. Orders must be comparable with each other."""
        version = self._versions[key] = next(self._count)
        heapq.heappush(self._heap, (order, version, key))
        if len(self._heap) > 2 * len(self._versions) + _STALE_ENTRIES:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def remove(self, key: Key) -> None:
        """Remove `key` if it is there."""
        self._versions.pop(key, None)

    def first(self) -> tuple[Any, Key] | None:
        """Return the lowest order and its key, or None when the heap is empty."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def ascending(self) -> Iterator[tuple[Any, Key]]:
        """Return orders and keys, the lowest first, in O(n log n). Use it before anything changes."""
        return ((order, key) for order, _, key in sorted(filter(self._is_live, self._heap)))

    def _is_live(self, entry: tuple[Any, int, Key]) -> bool:
        return self._versions.get(entry[2]) == entry[1]


class EvictionOrder:
    """All candidates, ordered by the rank that the policy gives them.

    Of equal ranks loose runs go before parked sequences, then what was added first. The policy is asked once
    for each change of a candidate and once for each rank that expires; finding the first candidate costs O(log n).
    """

    def __init__(self, policy: RetentionPolicy) -> None:
        self._policy = policy
        self._candidates: dict[Key, Candidate] = {}
        self._numbers: dict[Key, int] = {}
        self._count = count()
        self._ranked = KeyedHeap()
        self._expiring = KeyedHeap()

    def put(self, key: Key, candidate: Candidate, now: float) -> None:
        """Add a candidate, or replace the one under `key`, which keeps its place between equal ranks."""
        if key not in self._candidates:
            self._numbers[key] = next(self._count)
        self._candidates[key] = candidate
        self._place(key, now)

    def remove(self, key: Key) -> None:
        """Remove the candidate under `key`."""
        del self._candidates[key], self._numbers[key]
        self._ranked.remove(key)
        self._expiring.remove(key)

    def candidate(self, key: Key) -> Candidate:
        """Return the candidate under `key`."""
        return self._candidates[key]

    def first(self, now: float) -> Key | None:
        """Return the key of the candidate that goes first, or None when there is no candidate."""
        self._rank_expired(now)
        first = self._ranked.first()
        return first[1] if first else None

    def below(self, candidate: Candidate, now: float) -> Iterator[Key]:
        """Return the keys of those that rank below `candidate`, in the order in which they go. Use it before anything
        changes."""
        self._rank_expired(now)
        rank = self._policy.rank(candidate, now)
        return (key for order, key in self._ranked.ascending() if order[0] < rank.order)

    def check_integrity(self, expected: Mapping[Key, Candidate]) -> None:
        """Raise AssertionError unless the candidates, as they were ranked last, are those `expected`."""
        assert self._candidates == expected, "a candidate was ranked before it changed"
        assert len(self._ranked) == len(self._numbers) == len(expected), "a candidate has no rank"
        assert len(self._expiring) <= len(expected), "a rank of a removed candidate expires"

    def _place(self, key: Key, now: float) -> None:
        candidate = self._candidates[key]
        rank = self._policy.rank(candidate, now)
        self._ranked.put(key, (rank.order, candidate.session is not None, self._numbers[key]))
        if rank.until < float("inf"):
            self._expiring.put(key, rank.until)
        else:
            self._expiring.remove(key)

    def _rank_expired(self, now: float) -> None:
        for key in self._take_expired(now):
            self._place(key, now)

    def _take_expired(self, now: float) -> list[Key]:
        """Return the keys whose rank has expired; all, before any is ranked again, since a rank may expire at once."""
        expired: list[Key] = []
        while (first := self._expiring.first()) and first[0] <= now:
            self._expiring.remove(first[1])
            expired.append(first[1])
        return expired
