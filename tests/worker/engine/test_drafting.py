"""Ids are guessed while that pays: by how many were right, and by how many sequences decode."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.drafter import RETRY_TOKENS, Drafter, draft_cost, draw_cost
from roost_worker.engine.drafting import LOSS_SHARE, MOST_LOSS, Drafting
from roost_worker.engine.messages import SamplingParams, Submit
from roost_worker.engine.sequence import Sequence

LOOP = array("i", list(range(40)) * 2)
"""Its last ids stood before, so that there always is a guess."""
CONTEXT = 1000


def lengths(rows: int, right_share: float, batches: int = 200, most: int = 16) -> list[int]:
    """How many ids are guessed in each batch, if the first `right_share` of them are right."""
    drafter, ids, drafted = Drafter(), LOOP[:], list[int]()
    for _ in range(batches):
        draft = drafter.draft(ids, rows, most)
        right = int(len(draft) * right_share)
        drafter.learn(len(draft), right, right + 1)
        drafted.append(len(draft))
    return drafted


def sequence(max_tokens: int = 10_000, logprobs: int | None = None, prompt_lookup: bool = True) -> Sequence:
    sampling = SamplingParams(max_tokens=max_tokens, logprobs=logprobs, prompt_lookup=prompt_lookup)
    return Sequence(Submit("r", LOOP[:], len(LOOP), sampling, b"tenant"), 1, 0.0)


def test_guesses_that_are_right_become_longer() -> None:
    assert lengths(1, 1.0, 5) == [4, 8, 16, 16, 16]


def test_guesses_that_are_wrong_become_short_and_rare() -> None:
    drafted = lengths(1, 0.0, 10 * RETRY_TOKENS)
    assert sum(map(bool, drafted)) < 15
    assert sum(drafted) < 60


def test_a_large_batch_guesses_only_what_is_mostly_right() -> None:
    assert [sum(lengths(rows, 0.75)) > 400 for rows in (1, 4, 32)] == [True, True, False]
    assert sum(lengths(16, 1.0)) > 2000


def test_a_sequence_that_begins_to_copy_is_noticed() -> None:
    drafter, ids = Drafter(), LOOP[:]
    for _ in range(RETRY_TOKENS):
        drafter.learn(len(drafter.draft(ids, 1, 16)), 0, 1)
    drafted = []
    for _ in range(RETRY_TOKENS):
        draft = drafter.draft(ids, 1, 16)
        drafter.learn(len(draft), len(draft), len(draft) + 1)
        drafted.append(len(draft))
    assert drafted[-1] == 16


@given(
    batches=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 16)).map(lambda batch: (batch[0], [batch[1]] * batch[0]))
        | st.lists(st.integers(0, 16), min_size=1, max_size=12).map(lambda rights: (len(rights), rights)),
        max_size=60,
    )
)
def test_whatever_is_right_decoding_takes_at_most_one_percent_longer(batches: list[tuple[int, list[int]]]) -> None:
    drafting = Drafting(16, CONTEXT)
    sequences = [sequence() for _ in range(40)]
    taken = without = 0.0
    for rows, rights in batches:
        drafting.begin(rows)
        drafts = [drafting.draft(each, 100) for each in sequences[:rows]]
        for each, draft, most in zip(sequences[:rows], drafts, rights, strict=True):
            right = min(most, len(draft))
            each.drawn = right + 1
            drafting.learn(each, len(draft), right)
            taken += draw_cost(rows) + (draft_cost(len(draft)) if draft else 0)
            without += draw_cost(rows) * each.drawn
        assert taken <= without * (1 + LOSS_SHARE) + MOST_LOSS + 1e-6


def test_sequences_that_are_all_guessed_wrong_lose_one_percent_together() -> None:
    drafting, guesses = Drafting(16, CONTEXT), 0
    drafting.begin(1)
    for _ in range(5000):
        each = sequence()
        draft = drafting.draft(each, 100)
        guesses += draft_cost(len(draft)) if draft else 0
        drafting.learn(each, len(draft), 0)
    decoding = 5000 * draw_cost(1)
    assert 0.9 * LOSS_SHARE * decoding < guesses <= LOSS_SHARE * decoding + MOST_LOSS


def test_no_more_is_guessed_than_could_be_used() -> None:
    def guessed(of: Sequence, room: int = 100, most_tokens: int = 16, context_tokens: int = CONTEXT) -> int:
        return len(Drafting(most_tokens, context_tokens).draft(of, room))

    assert [guessed(sequence(max_tokens=most)) for most in (1, 2, 3, 100)] == [0, 1, 2, 4]
    assert [guessed(sequence(), room=room) for room in (0, 3)] == [0, 3]
    assert [guessed(sequence(), most_tokens=most) for most in (0, 2)] == [0, 2]
    assert guessed(sequence(), context_tokens=len(LOOP) + 3) == 2
    assert guessed(sequence(logprobs=0)) == 0
    assert guessed(sequence(prompt_lookup=False)) == 0
