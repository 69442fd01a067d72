"""Identifiers of calls, which follow from the step and the call's number. Pure."""

import hashlib
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace

from roost.contract.events import CallPart, Part

_ALPHABET = string.ascii_letters + string.digits


def _long(digest: bytes) -> str:
    return f"call_{digest[:16].hex()}"


def _short(digest: bytes) -> str:
    number, letters = int.from_bytes(digest[:16], "big"), list[str]()
    for _ in range(9):
        number, place = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(letters)


@dataclass(frozen=True, slots=True)
class CallIds:
    """How a format's calls are identified."""

    spell: Callable[[bytes], str]
    """Writes a digest of 32 bytes as an id."""
    written: re.Pattern[str] | None = None
    """Ids that are kept when the model writes them itself; None when its ids mean nothing."""

    def of_call(self, seed: bytes, number: int) -> str:
        """Return our id of a step's call, the same for every attempt at the step. `seed` is the step's own."""
        return self.spell(hashlib.sha256(seed + number.to_bytes(4, "big")).digest())

    def may_keep(self, written: str) -> bool:
        """Return whether an id that the model wrote is kept, if no earlier call of the session has it."""
        return self.written is not None and self.written.fullmatch(written) is not None


class CallNamer:
    """Gives the calls of one step their ids, in order.

    An id that the model wrote is kept when the format's models were trained on their own, and when neither an earlier
    call nor `earlier_text`, the text of the session's log, has it. That is asked for once, if an id depends on it.
    """

    def __init__(self, ids: CallIds, seed: bytes, earlier_text: Callable[[], str]) -> None:
        self._ids, self._seed, self._earlier_text = ids, seed, earlier_text
        self._log_text: str | None = None
        self.given: dict[int, str] = {}
        """Ids by the call's number."""

    def named(self, part: Part) -> Part:
        """Return the part; a call with our id, unless its own is kept."""
        if not isinstance(part, CallPart):
            return part
        self.given[part.index] = self._id(part)
        return replace(part, id=self.given[part.index])

    def needs_log(self, part: Part) -> bool:
        """Return whether the id of a part depends on the log's text, which is not known yet."""
        return isinstance(part, CallPart) and self._ids.may_keep(part.id) and self._log_text is None

    def learn_log(self) -> str:
        """Return the log's text; from now on no id waits for it. The first time takes a while, and may run in a
        thread."""
        if self._log_text is None:
            self._log_text = self._earlier_text()
        return self._log_text

    def _id(self, part: CallPart) -> str:
        keeps = self._ids.may_keep(part.id) and part.id not in self.given.values() and part.id not in self.learn_log()
        return part.id if keeps else self._ids.of_call(self._seed, part.index)


UNIQUE = CallIds(_long)
"""37 characters with 128 bits of a digest, unique among all sessions and pools."""
MISTRAL = CallIds(_short, re.compile(r"[A-Za-z0-9]{9}"))
"""9 letters and digits, the only ids that Mistral's models were trained on; unique in a session."""
