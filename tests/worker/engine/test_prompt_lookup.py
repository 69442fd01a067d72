"""A guess is what followed the last ids where they stood before, as a search from the end gives it."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.prompt_lookup import NGRAM_TOKENS, PromptLookup


def searched(ids: list[int], most: int, most_ngrams: int) -> list[int]:
    """The guess by a search through the last `most_ngrams` places."""
    for place in range(len(ids) - 1, max(NGRAM_TOKENS, len(ids) - most_ngrams) - 1, -1):
        if ids[place - NGRAM_TOKENS : place] == ids[-NGRAM_TOKENS:]:
            return [(ids[place:] * most)[index] for index in range(most)]
    return []


@given(
    parts=st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=12),
    most=st.integers(1, 6),
    most_ngrams=st.sampled_from([1, 2, 5, 9, 1000]),
)
def test_a_guess_is_that_of_a_search(parts: list[list[int]], most: int, most_ngrams: int) -> None:
    lookup = PromptLookup(most_ngrams)
    ids: array[int] = array("i")
    for part in parts:
        ids.extend(part)
        assert list(lookup.guess(ids, most)) == searched(ids.tolist(), most, most_ngrams)
        assert len(lookup._followers) <= most_ngrams


def test_a_copy_is_guessed_from_where_the_last_one_stands() -> None:
    ids = array("i", [7, 8, 9, 1, 2, 7, 8, 9, 3, 4, 5, 6, 7, 8, 9])
    lookup = PromptLookup()
    assert lookup.guess(ids, 3) == (3, 4, 5)
    assert lookup.guess(ids, 100) == (3, 4, 5, 6, 7, 8, 9) * 14 + (3, 4)
    assert lookup.guess(array("i", [*ids, 3, 3, 3, 3]), 3) == (3, 3, 3)
    ids.extend([3, 3, 3, 3, 0])
    assert lookup.guess(ids, 3) == ()
