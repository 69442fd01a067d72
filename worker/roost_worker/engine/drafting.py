"""Bounds what the guesses of all sequences of an engine may lose. Pure. Times are in tokens, as in `drafter.py`."""

from roost_worker.engine.drafter import LEAST_LENGTH, ROW_TOKENS, Drafter, draft_cost, draw_cost
from roost_worker.engine.sequence import Sequence

LOSS_SHARE = 0.01
"""What guesses may lose, as a share of what decoding takes."""
FIRST_LOSS = 2 * draft_cost(LEAST_LENGTH)
"""What guesses may lose besides."""
MOST_SAVED = 50.0
"""What guesses may lose at most of what others have saved."""


class Drafting:
    """The guesses of all sequences of an engine, whose outputs are the same without.

    Whatever is guessed, decoding takes no more than 1 + LOSS_SHARE of its time without guesses, and FIRST_LOSS. For
    that only what is sure to be saved counts: a whole batch for each right guess about a sequence that decodes alone,
    but a row about one of several, since the others still need as many batches. So those guess little.
    """

    def __init__(self, most_tokens: int, context_tokens: int) -> None:
        """`most_tokens`: of one draft; 0 for none."""
        self._most_tokens = most_tokens
        self._context_tokens = context_tokens
        self._may_lose = FIRST_LOSS
        self._rows = 1

    @property
    def guesses(self) -> bool:
        """Whether anything is guessed."""
        return self._most_tokens > 0

    def begin(self, rows: int) -> None:
        """Note that `draft` and `learn` are now about a batch in which `rows` sequences decode."""
        self._rows = rows

    def draft(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """Return up to `room` ids that may follow those of `sequence`.

        A sequence that reports log-probabilities gets none: they are reported of one draw a batch.
        """
        affordable = int(self._may_lose - draft_cost(0))
        most = min(room, self._most_tokens, sequence.tokens_left(self._context_tokens) - 1, affordable)
        sampling = sequence.request.sampling
        if most < 1 or not sampling.prompt_lookup or sampling.logprobs is not None:
            return ()
        sequence.drafter = sequence.drafter or Drafter()
        draft = sequence.drafter.draft(sequence.ids, self._rows, most)
        if draft:
            self._may_lose -= draft_cost(len(draft))
        return draft

    def learn(self, sequence: Sequence, drafted: int, right: int) -> None:
        """Learn that of `drafted` guesses about `sequence` `right` were drawn, too."""
        saved = right * (draw_cost(1) if self._rows == 1 else ROW_TOKENS)
        self._may_lose = min(MOST_SAVED, self._may_lose + saved + LOSS_SHARE * draw_cost(self._rows))
        if sequence.drafter:
            sequence.drafter.learn(drafted, right, sequence.drawn)
