"""How repeated calls are noticed: by hashes of the calls of the last steps. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from roost.contract.repetition import Repetition

HASH_DIGITS = 16
LONGEST_CYCLE = 8
"""Steps of the longest cycle that is noticed."""
KEPT_OF_SESSION, KEPT_OF_TASK = 64, 256
"""So many steps with calls are remembered."""


def calls_hash(calls: Sequence[Mapping[str, str]]) -> str:
    """A hash of a step's calls by name and arguments, whatever their ids and the spelling of their JSON; empty without
    calls."""
    if not calls:
        return ""
    canonical = json.dumps([[call["name"], _canonical(call["arguments"])] for call in calls])
    return hashlib.blake2b(canonical.encode(), digest_size=HASH_DIGITS // 2).hexdigest()


def _canonical(arguments: str) -> str:
    """JSON text that is equal for equal values; the text itself when it is not JSON."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments.strip()


def with_calls(hashes: str, calls: str, kept: int) -> str:
    """The hashes of the last steps, one after another, with those of one more step."""
    return (hashes + calls)[-kept * HASH_DIGITS :]


def cycle(hashes: str, threshold: int) -> tuple[int, int] | None:
    """Period and rounds of the shortest cycle at the end that has come `threshold` times; None without one."""
    for period in range(1, LONGEST_CYCLE + 1):
        width = period * HASH_DIGITS
        last, times, at = hashes[-width:], 1, len(hashes) - width
        while at >= width and hashes[at - width : at] == last:
            times, at = times + 1, at - width
        if times >= threshold:
            return period, times
    return None


def occurrences(hashes: str, calls: str) -> int:
    """In how many of the steps these calls were made."""
    return sum(hashes[at : at + HASH_DIGITS] == calls for at in range(0, len(hashes), HASH_DIGITS))


def repetition_from_text(text: str) -> Repetition | None:
    """A repetition as scripts write it: `session:period:times` or `task:period:times`; None for an empty text. Raises
    ValueError for another one."""
    if not text:
        return None
    scope, period, times = text.split(":")
    return Repetition(scope == "task", int(period), int(times))
