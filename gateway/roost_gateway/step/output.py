"""What a step has produced so far, and how much of it the client has."""

from array import array

from roost.contract.refused import invalid
from roost.v1.session_service_pb2 import Attempt, Cursor, StepResponse, TokenLogprobs
from roost.v1.worker_service_pb2 import Delta


class OutputGapError(Exception):
    """A worker's delta does not continue the output."""


class StepOutput:
    """Ids and text in order, and the cursor of what was sent.

    Deltas to the client are slices from the cursor to the end: contiguous by construction, and as many engine steps
    in one message as arrived while the last one was being written.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.prompt_ids = array("I")
        self.ids = array("I")
        self.text = bytearray()
        self.logprobs: list[TokenLogprobs] = []
        self.accepted = False
        self._sent_tokens = 0
        self._sent_bytes = 0

    def accept(self, prompt_ids: "array[int]") -> None:
        """Takes the rendered prompt; the first one counts, a replay repeats it."""
        if not self.accepted:
            self.prompt_ids = prompt_ids
            self.accepted = True

    def append(self, delta: Delta) -> None:
        """Takes a worker's delta. Raises OutputGapError when it does not begin where the output ends."""
        if delta.token_offset != len(self.ids) or delta.text_offset != len(self.text):
            raise OutputGapError(
                f"delta at token {delta.token_offset}, byte {delta.text_offset}, "
                f"but the output ends at {len(self.ids)}, {len(self.text)}"
            )
        self.ids.extend(delta.token_ids)
        self.text += delta.text.encode()
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)

    def client_has(self, cursor: Cursor) -> None:
        """Continues after what the client received of this output in an earlier call."""
        self._sent_tokens, self._sent_bytes = cursor.tokens, cursor.text_bytes

    @property
    def sent_anything(self) -> bool:
        return self._sent_tokens > 0 or self._sent_bytes > 0

    @property
    def behind_client(self) -> bool:
        """Whether the client has more than is here: going on would generate again what it has."""
        return self._sent_tokens > len(self.ids) or self._sent_bytes > len(self.text)

    def void(self) -> None:
        """Nothing of it counts any more: the next attempt at a worker begins from the start."""
        self.ids, self.text, self.logprobs = array("I"), bytearray(), []
        self.prompt_ids, self.accepted = array("I"), False
        self.rewind()

    def rewind(self) -> None:
        """Sends everything again, from the start."""
        self._sent_tokens = self._sent_bytes = 0

    def take(self) -> StepResponse | None:
        """What the client does not have yet, as one delta; None when there is nothing.

        Raises Refused: INVALID_REQUEST when the client's cursor lies inside a character.
        """
        tokens, size = len(self.ids), len(self.text)
        if tokens <= self._sent_tokens and size <= self._sent_bytes:
            return None
        first, start = min(self._sent_tokens, tokens), min(self._sent_bytes, size)
        if start < size and self.text[start] & 0xC0 == 0x80:
            raise invalid([("received.text_bytes", f"{start} lies inside a character of the text")])
        response = StepResponse()
        delta = response.delta  # filled where it stands: a message put into another one is copied
        delta.attempt.CopyFrom(self.attempt)
        delta.token_offset, delta.text_offset = self._sent_tokens, self._sent_bytes
        delta.token_ids.extend(self.ids[first:])
        delta.text = self.text[start:].decode()
        if self.logprobs:
            delta.logprobs.extend(self.logprobs[first:])
        self._sent_tokens, self._sent_bytes = max(tokens, self._sent_tokens), max(size, self._sent_bytes)
        return response
