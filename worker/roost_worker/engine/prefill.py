"""How much of a batch is prefill, and of which prompts. Pure.

Decode and prefill are two classes. Every decoding sequence gets a token in every batch; tokens that grammars force get
up to half of what is left. The rest goes to prompts, no more than keeps a batch within the step goal. Of that, light
prompts (what one batch could compute) get one half as long as a heavy prompt goes before them: a step that adds a few
hundred tokens does not wait until a prompt of tens of thousands is computed, and the heavy prompt still advances by at
least the other half.
"""

from collections.abc import Iterable, Sequence

LEAST_CHUNK_TOKENS = 32
"""The chunk is not made smaller than this: fixed costs of a batch would outweigh what its tokens cost."""
MOST_CHANGE = 2.0
"""Factor by which one measurement changes the chunk at most: a single slow batch says little."""


class ChunkSize:
    """Most tokens of prefill in a batch that also decodes, so that the batch takes about `goal_seconds`."""

    def __init__(self, most_tokens: int, goal_seconds: float) -> None:
        """`goal_seconds`: 0 for no goal: a chunk is then as large as the batch."""
        self.tokens = most_tokens
        self._least = min(LEAST_CHUNK_TOKENS, most_tokens)
        self._most = most_tokens
        self._goal = goal_seconds

    def observe(self, prefilled: int, seconds: float) -> None:
        """Learn from a mixed batch. One that had less to prefill than the chunk cannot make it larger."""
        if not self._goal or seconds <= 0:
            return
        change = min(MOST_CHANGE, max(1 / MOST_CHANGE, self._goal / seconds))
        if change < 1 or prefilled >= self.tokens:
            # Rounded away from where it is, or small chunks would never change.
            wanted = int(self.tokens * change) if change < 1 else -int(-self.tokens * change // 1)
            self.tokens = min(self._most, max(self._least, wanted))


def light_share(tokens: int) -> int:
    """Return how many of a batch's `tokens` of prefill light prompts get before a heavy one."""
    return tokens // 2


def shares(left: Sequence[tuple[int, int]], tokens: int, light_tokens: int) -> list[int]:
    """Share `tokens` of prefill among prompts: per prompt in order, its tokens in this batch.

    `left` has each prompt's priority and its tokens that are not computed yet, in the order in which prompts run. A
    prompt is light when at most `light_tokens` are left. Light prompts of the first prompt's priority go first with
    their share; the rest is given in order.
    """
    given = [0] * len(left)
    first_priority = left[0][0] if left else 0
    light = (
        index
        for index, (priority, missing) in enumerate(left)
        if priority == first_priority and missing <= light_tokens
    )
    spent = _give(light, left, given, light_share(tokens))
    _give(range(len(left)), left, given, tokens - spent)
    return given


def _give(indices: Iterable[int], left: Sequence[tuple[int, int]], given: list[int], tokens: int) -> int:
    """Give up to `tokens` in order. Return how many were given."""
    spent = 0
    for index in indices:
        part = min(tokens - spent, left[index][1] - given[index])
        given[index] += part
        spent += part
    return spent
