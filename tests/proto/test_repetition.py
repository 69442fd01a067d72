"""Which calls are equal, and when they repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.store.repetition import KEPT_OF_SESSION, LONGEST_CYCLE, calls_hash, cycle, occurrences, with_calls


def call(name: str = "grep", arguments: str = "{}", id_: str = "c1") -> dict[str, str]:
    return {"id": id_, "name": name, "arguments": arguments}


def hashes(letters: str) -> str:
    """One hash for each letter."""
    return "".join(letter * 16 for letter in letters)


def test_calls_are_equal_by_name_and_values() -> None:
    spelled = calls_hash([call(arguments='{"a": 1, "b": [true, "\\u00e9"]}')])
    assert spelled == calls_hash([call(arguments='{"b":[true,"é"],"a":1}', id_="other")])
    others = [
        [],
        [call()],
        [call(name="ls", arguments='{"a": 1, "b": [true, "é"]}')],
        [call(arguments='{"a": 1, "b": [true, "é"]}')] * 2,
        [call(arguments='{"a": 1, "b": ["é", true]}')],
        [call(arguments="not JSON")],
    ]
    digests = [calls_hash(other) for other in others]
    assert len({spelled, *digests}) == len(others) + 1
    assert calls_hash([]) == ""


@pytest.mark.parametrize(
    ("letters", "threshold", "expected"),
    [
        ("", 2, None),
        ("a", 2, None),
        ("aa", 2, (1, 2)),
        ("abaa", 3, None),
        ("baaa", 3, (1, 3)),
        ("aaab", 3, None),
        ("abab", 2, (2, 2)),
        ("cababab", 3, (2, 3)),
        ("abcabc", 2, (3, 2)),
        ("abcabcab", 2, (3, 2)),
        ("abcdefgh" * 2, 2, (8, 2)),
        ("abcdefghi" * 2, 2, None),
    ],
)
def test_the_shortest_cycle_at_the_end_counts(letters: str, threshold: int, expected: tuple[int, int] | None) -> None:
    assert cycle(hashes(letters), threshold) == expected


@given(st.text("abc", max_size=40), st.integers(2, 8))
def test_a_cycle_is_what_a_search_for_the_text_itself_gives(letters: str, threshold: int) -> None:
    expected = None
    for period in range(1, LONGEST_CYCLE + 1):
        times = 1
        while len(letters) >= period * (times + 1) and letters.endswith(letters[-period:] * (times + 1)):
            times += 1
        if times >= threshold:
            expected = (period, times)
            break
    assert cycle(hashes(letters), threshold) == expected


def test_what_is_remembered_is_bounded() -> None:
    kept = ""
    for number in range(200):
        kept = with_calls(kept, f"{number:016x}", KEPT_OF_SESSION)
    assert len(kept) == 16 * KEPT_OF_SESSION
    assert occurrences(kept, f"{199:016x}") == 1
    assert occurrences(kept, f"{3:016x}") == 0
