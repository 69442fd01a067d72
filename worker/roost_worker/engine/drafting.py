"""Bounds what the guesses of all sequences of an engine may lose. Pure. Times are in tokens, as in `drafter.py`."""

from roost_worker.engine.drafter import Drafter, draft_cost, draw_cost
from roost_worker.engine.sequence import Sequence

LOSS_SHARE = 0.01
"""What guesses may lose, as a share of what decoding takes without them."""
MOST_LOSS = 50.0
"""What guesses may lose besides, in tokens. What other guesses gained counts up to here."""


class Drafting:
    """The guesses of all sequences of an engine, whose outputs are the same without.

    Whatever is guessed, tokens take no more than 1 + LOSS_SHARE of their time without guesses, and MOST_LOSS in all. So
    it is where requests follow one another; of requests that end without successors, the last one's batches cost as
    much as before, however soon the others end.
    """

    def __init__(self, most_tokens: int, context_tokens: int) -> None:
        """`most_tokens`: of one draft; 0 for none."""
        self._most_tokens = most_tokens
        self._context_tokens = context_tokens
        self._may_lose = MOST_LOSS
        self._rows = 1

    @property
    def guesses(self) -> bool:
        """Whether anything is guessed."""
        return self._most_tokens > 0

    def begin(self, rows: int) -> None:
        """Begin a batch in which `rows` sequences decode. `draft` and `learn` are about this batch."""
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
        self._may_lose = min(MOST_LOSS, self._may_lose + (right + LOSS_SHARE * sequence.drawn) * draw_cost(self._rows))
        if sequence.drafter:
            sequence.drafter.learn(drafted, right, sequence.drawn)
