"""A step's output as the client has it: makes one gapless text of the deltas of several attempts. Pure."""

from roost import wire_steps
from roost.contract.events import Delta, Restarted
from roost.errors import StreamError
from roost.v1 import session_service_pb2 as pb


class Output:
    """How much of a step's output the caller has seen: tokens, UTF-8 bytes of text, and of which attempt."""

    def __init__(self) -> None:
        self.tokens = 0
        self.text_bytes = 0
        self._attempt: pb.Attempt | None = None

    def cursor(self) -> pb.Cursor | None:
        """What to send as `received` when the step is sent again; None before any attempt was seen."""
        if self._attempt is None:
            return None
        return pb.Cursor(attempt=self._attempt, tokens=self.tokens, text_bytes=self.text_bytes)

    def begin(self, attempt: pb.Attempt) -> None:
        """The next deltas belong to `attempt`, which continues what was seen."""
        self._attempt = attempt

    def restart(self, restarted: pb.StepRestarted) -> Restarted:
        """What was seen is void."""
        self.tokens = self.text_bytes = 0
        self._attempt = restarted.attempt
        return Restarted(restarted.reason)

    def accept(self, delta: pb.StepDelta) -> Delta | None:
        """The part of `delta` that is new; None when nothing is. Raises StreamError when something is missing."""
        self._attempt = delta.attempt
        seen = _overlap("token", delta.token_offset, self.tokens)
        token_ids = delta.token_ids[seen:]
        text = self._new_text(delta)
        if not token_ids and not text:
            return None
        logprobs = wire_steps.logprobs_from_wire(delta.logprobs[seen:])
        new = Delta(text, tuple(token_ids), self.tokens, self.text_bytes, logprobs)
        self.tokens += len(token_ids)
        self.text_bytes += len(text.encode())
        return new

    def _new_text(self, delta: pb.StepDelta) -> str:
        if not delta.text:
            return ""
        seen = _overlap("text", delta.text_offset, self.text_bytes)
        try:
            return delta.text.encode()[seen:].decode()
        except UnicodeDecodeError as error:
            raise StreamError(f"text at byte {self.text_bytes} begins inside a character") from error


def _overlap(what: str, offset: int, seen: int) -> int:
    """How much of a piece at `offset` was seen. Raises StreamError when the piece leaves a gap."""
    if offset > seen:
        raise StreamError(f"{what} {seen} to {offset} of the step's output never came")
    return seen - offset
