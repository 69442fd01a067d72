"""A request on its way through the engine."""

from array import array
from dataclasses import dataclass, field

from roost_worker.engine.drafter import Drafter
from roost_worker.engine.messages import StopReason, Submit

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's ids, its blocks and how far its KV is computed."""

    request: Submit
    arrival: int
    """Number of the request in the order of arrival."""
    submitted: float
    """Time of arrival, in seconds of the engine's clock."""
    ids: "array[int]" = field(init=False)
    """Context and output."""
    computed: int = 0
    """How many tokens, from the start, have their KV in `blocks`."""
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    keys: list[bytes] = field(default_factory=list)
    """Keys of the first full blocks of `ids`, as far as they were needed so far."""
    expected_tokens: int = 0
    """Tokens that were to be computed, as the cache was when the sequence began to wait."""
    slot: int = NO_SLOT
    cached_tokens: int | None = None
    """Tokens of the context that were in the cache when the first was computed; None before the first admission."""
    queue_seconds: float = 0.0
    restoring: int = 0
    """How many blocks the batch that was scheduled last copies back from host memory."""
    prefilled: bool = False
    """Whether any of its tokens was computed, and not just found in the cache."""
    gpu_seconds: float = 0.0
    """Its share, by tokens, of the time of each batch that it was in, times the ranks."""
    announced: bool = False
    """Whether the first output, which carries `cached_tokens`, was sent."""
    drawn: int = 1
    """How many of `ids` the last batch gave: drawn tokens, and those that the grammar forced after them."""
    drafter: Drafter | None = None
    """Guesses what follows `ids`; None before the first guess."""

    def __post_init__(self) -> None:
        self.ids = array("i", self.request.token_ids)

    @property
    def order(self) -> tuple[int, int]:
        """Priority, then first come, first served."""
        return (self.request.priority, self.arrival)

    @property
    def pause_began(self) -> float:
        """When the session's pause began; of a request without one, when it came."""
        return self.submitted - (self.request.pause.seconds_ago if self.request.pause else 0.0)

    @property
    def output_len(self) -> int:
        return len(self.ids) - self.request.prompt_len

    @property
    def missing_tokens(self) -> int:
        """Return how many of `ids` are still to be computed."""
        return len(self.ids) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether nothing but what the last batch gave is left to compute."""
        return self.missing_tokens <= self.drawn

    def tokens_left(self, limit: int) -> int:
        """Return how many tokens may still be drawn. `limit` is the most tokens of a context."""
        return min(self.request.sampling.max_tokens - self.output_len, limit - len(self.ids))

    def append(self, tokens: tuple[int, ...], limit: int) -> StopReason | None:
        """Append what was drawn and forced, up to the first token that ends the output; set `drawn`.

        Return why the output ends, or None. `limit` is the most tokens of a context.
        """
        reason: StopReason | None = None
        self.drawn = 0
        for token in tokens:
            self.ids.append(token)
            self.drawn += 1
            if reason := self.stop_reason(limit):
                break
        return reason

    def stop_reason(self, limit: int) -> StopReason | None:
        """Return why the output ends with its last token, or None. `limit` is the most tokens of a context."""
        sampling, output_len = self.request.sampling, self.output_len
        if output_len > sampling.min_tokens and self.ids[-1] in sampling.stop_token_ids:
            return StopReason.STOP
        if output_len >= sampling.max_tokens or len(self.ids) >= limit:
            return StopReason.LENGTH
        return None
