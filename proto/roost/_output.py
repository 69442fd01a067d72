"""A step's output as its caller has it: one gapless text out of the deltas of several attempts. Pure."""

from roost.contract.events import Delta, Part, Restarted, Started
from roost.contract.heads import AttemptRef
from roost.contract.parts import cut, units
from roost.contract.steps import Cursor
from roost.errors import StreamError


class Output:
    """How much of a step's output the caller has received: tokens, UTF-8 bytes of text, units of parts, and from which
    attempt."""

    def __init__(self) -> None:
        self.tokens = 0
        self.text_bytes = 0
        self.parts = 0
        self.furthest = 0
        """Most tokens that the output ever had, whatever became void since."""
        self._attempt: AttemptRef | None = None

    def cursor(self) -> Cursor | None:
        """What to send as `received` when the step is sent again; None before the first attempt has begun."""
        return None if self._attempt is None else Cursor(self._attempt, self.tokens, self.text_bytes, self.parts)

    def begin(self, started: Started) -> None:
        """The next deltas belong to an attempt that continues the output."""
        self._attempt = started.attempt

    def restart(self, restarted: Restarted) -> None:
        """All output so far is void."""
        self.tokens = self.text_bytes = self.parts = 0
        self._attempt = restarted.attempt

    def accept(self, delta: Delta) -> Delta | None:
        """Returns the new part of `delta`, or None when all of it was received before.

        Raises StreamError when something before it is missing.
        """
        self._attempt = delta.attempt
        known = _overlap("token", delta.token_offset, self.tokens)
        token_ids, text = tuple(delta.token_ids[known:]), self._new_text(delta)
        parts = self._new_parts(delta)
        if not token_ids and not text and not parts:
            return None
        logprobs = delta.logprobs[known:]
        new = Delta(text, token_ids, self.tokens, self.text_bytes, logprobs, delta.attempt, parts, self.parts)
        self.tokens += len(token_ids)
        self.text_bytes += len(text.encode())
        self.parts += sum(map(units, parts))
        self.furthest = max(self.furthest, self.tokens)
        return new

    def _new_text(self, delta: Delta) -> str:
        if not delta.text:
            return ""
        known = _overlap("text", delta.text_offset, self.text_bytes)
        try:
            return delta.text.encode()[known:].decode()
        except UnicodeDecodeError as error:
            raise StreamError(f"text at byte {self.text_bytes} begins inside a character") from error

    def _new_parts(self, delta: Delta) -> tuple[Part, ...]:
        if not delta.parts:
            return ()
        return tuple(cut(delta.parts, _overlap("part", delta.part_offset, self.parts)))


def _overlap(what: str, offset: int, received: int) -> int:
    """How much of a piece at `offset` was received before. Raises StreamError when the piece leaves a gap."""
    if offset > received:
        raise StreamError(f"{what} {received} to {offset} of the step's output never came")
    return received - offset
