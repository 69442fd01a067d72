"""Decides when the next ids of one sequence are guessed, and how many. Pure.

Times are in tokens: what one more token of a chunk takes. A batch of r sequences that decode takes BATCH_TOKENS +
ROW_TOKENS * r, and a draft of n ids CHUNK_TOKENS + n more. Each id of it that is right saves a sequence's share of such
a batch. So a sequence that decodes alone, and waits for the weights whatever it computes, gains from few right ids; in
a large batch most of them must be right.
"""

from array import array

from roost_worker.engine.prompt_lookup import PromptLookup

BATCH_TOKENS = 20.0
"""What a batch takes besides its rows. This and the next two are the highest of those measured, SmolLM2 in
bfloat16 on a CPU (tests/benchmarks/LOG.md, 2026-11-30); in float32 a chunk takes 3."""
ROW_TOKENS = 2.0
"""What a decoding row takes."""
CHUNK_TOKENS = 12.0
"""What a chunk of several tokens takes besides them: its attention is a call of its own."""
LEAST_LENGTH = 4
"""Of a draft, unless less is left: as most of what one takes is its chunk, a shorter one seldom pays."""
WEIGHT = 0.5
"""Share of the newest draft in the moving estimate of how many ids are right."""
RETRY_TOKENS = 64
"""Tokens of a sequence that come without a guess, when guesses do not pay, before it gets the next."""


def draft_cost(length: int) -> float:
    """Return what a draft takes."""
    return CHUNK_TOKENS + length


def draw_cost(rows: int) -> float:
    """Return what the draw of one token takes, as a share of a batch of `rows` sequences."""
    return BATCH_TOKENS / rows + ROW_TOKENS


class Drafter:
    """The guesses of one sequence. Their length follows how many are right."""

    def __init__(self) -> None:
        self._lookup = PromptLookup()
        self._length = LEAST_LENGTH
        self._right_share = 1.0
        self._tokens_without = 0

    def draft(self, ids: "array[int]", rows: int, most: int) -> tuple[int, ...]:
        """Return up to `most` ids that may follow `ids`, or none when that does not pay in a batch of `rows`."""
        pays = self._right_share * self._length * draw_cost(rows) > draft_cost(self._length)
        if not pays and self._tokens_without < RETRY_TOKENS:
            return ()
        return self._lookup.guess(ids, min(self._length, most))

    def learn(self, drafted: int, right: int, drawn: int) -> None:
        """Learn that of `drafted` guesses `right` were drawn, too, and that the batch gave `drawn` tokens."""
        if not drafted:
            self._tokens_without += drawn
            return
        self._tokens_without = 0
        self._right_share += WEIGHT * (right / drafted - self._right_share)
        self._length = 2 * drafted if right == drafted else max(LEAST_LENGTH, right)
