"""How long sessions pause: learned from the pauses that ended and from those that are known to last."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

EDGES: tuple[float, ...] = (0.0, *(2.0 ** (step / 2) for step in range(24)))
"""Where the bins of a pause begin, in seconds: half octaves up to 48 minutes. The last bin has no end."""
BINS = len(EDGES)
PROMISED_SECONDS = 32.0
"""What a pause of an expected length is scaled to, so that pauses of all expected lengths share bins."""

_WIDTHS = (*(end - begin for begin, end in pairwise(EDGES)), EDGES[-1])
_FORGET = 0.999
"""What is left of a count after each further pause, so that about the last thousand count."""
_PRIOR_PAUSES = 8.0
"""How many pauses the more general knowledge is worth beside those that were counted."""

PRIOR = (0.25,) * BINS
"""Share of the pauses reaching a bin that end in it, before anything is known: however long a session has paused, it
returns within the next half octave with this chance."""
PROMISED_PRIOR = tuple(0.05 if edge < PROMISED_SECONDS / 2 else 0.5 for edge in EDGES)
"""The same for a pause of an expected length: few end before half of it."""


def bin_of(pause: float) -> int:
    """Return the bin of a pause of that many seconds, which must not be negative."""
    return bisect_right(EDGES, pause) - 1


class PauseCounts:
    """Decayed counts of pauses by their length."""

    __slots__ = ("_ended", "_reached")

    def __init__(self) -> None:
        self._reached = [0.0] * BINS
        self._ended = [0.0] * BINS

    def add(self, pause: float, *, ended: bool) -> None:
        """Count a pause that ended after `pause` seconds, or that is only known to have lasted so long."""
        last = bin_of(pause)
        for number in range(last + 1):
            self._reached[number] = self._reached[number] * _FORGET + 1.0
            self._ended[number] *= _FORGET
        if ended:
            self._ended[last] += 1.0

    def refine(self, share: float, number: int) -> float:
        """Return the share of pauses that end in a bin, of those that reach it.

        `share` is what is known of it more generally; it counts where few pauses were seen.
        """
        return (self._ended[number] + _PRIOR_PAUSES * share) / (self._reached[number] + _PRIOR_PAUSES)


def return_rate(shares: Iterable[float], first: int) -> float:
    """Return how many returns a second waiting brings, for the length of waiting that brings most (Gittins' index).

    `shares` are those that end in each bin from `first` on, where the pause is now. They are read no further than
    waiting may pay: however many return later, they are one return at most.
    """
    waiting, returned, seconds, best = 1.0, 0.0, 0.0, 0.0
    for share, width in zip(shares, _WIDTHS[first:], strict=True):
        seconds += waiting * width * (1.0 - share / 2)
        returned += waiting * share
        waiting *= 1.0 - share
        best = max(best, returned / seconds)
        if best * seconds >= 1.0:
            break
    return best
