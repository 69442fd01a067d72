"""Guesses what follows a sequence from what followed its last ids where they stood before. Pure.

Agents copy from their context: names and lines of files that a tool returned, calls that they made before. So the ids
that came after the same n-gram are a cheap guess (prompt-lookup decoding, Saxena, 2023).
"""

from array import array
from itertools import cycle, islice

NGRAM_TOKENS = 3
MOST_NGRAMS = 1 << 14
"""N-grams of one sequence that are kept, those of its last ids: about 200 bytes each, so at most 3 MiB a sequence."""


class PromptLookup:
    """Where each n-gram of one sequence stood last; takes constant time for each id."""

    def __init__(self, most_ngrams: int = MOST_NGRAMS) -> None:
        self._most_ngrams = most_ngrams
        self._followers: dict[bytes, int] = {}
        """Index of the id after the n-gram, of those before `_end` the last `most_ngrams`."""
        self._end = 0

    def guess(self, ids: "array[int]", most: int) -> tuple[int, ...]:
        """Return `most` ids that followed the last n-gram where it stood before; none where it did not.

        When they end before there are as many, they begin again: that text repeats itself. `ids` begins with those of
        the call before.
        """
        self._add(ids)
        place = self._followers.get(ids[-NGRAM_TOKENS:].tobytes(), len(ids))
        return tuple(islice(cycle(ids[place : place + most]), most))

    def _add(self, ids: "array[int]") -> None:
        """Add n-grams of which the next id is known now, and forget as many of the first."""
        first = len(ids) - self._most_ngrams
        if self._end < first:
            self._followers.clear()
        for follower in range(max(self._end, first, NGRAM_TOKENS), len(ids)):
            self._followers[_ngram(ids, follower)] = follower
            self._forget(ids, follower - self._most_ngrams)
        self._end = len(ids)

    def _forget(self, ids: "array[int]", follower: int) -> None:
        if follower >= NGRAM_TOKENS and self._followers.get(key := _ngram(ids, follower)) == follower:
            del self._followers[key]


def _ngram(ids: "array[int]", follower: int) -> bytes:
    return ids[follower - NGRAM_TOKENS : follower].tobytes()
