"""Deltas of several attempts make one text: no gap, no repetition, whatever the cuts."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost._output import Output
from roost.contract.events import Delta, TokenLogprobs
from roost.contract.heads import AttemptRef
from roost.contract.steps import Cursor
from roost.errors import StreamError

ATTEMPT = AttemptRef(1, b"n" * 16)


def delta(
    ids: Sequence[int], text: str = "", *, token: int = 0, byte: int = 0, logprobs: tuple[TokenLogprobs, ...] = ()
) -> Delta:
    return Delta(text, ids, token, byte, logprobs, ATTEMPT)


def piece(ids: bytes, text: str, begin: int, end: int) -> Delta:
    """Tokens [begin, end) and the whole characters that they complete, one token per byte."""
    before = ids[:begin].decode(errors="ignore")
    until = ids[:end].decode(errors="ignore")
    return delta(ids[begin:end], until[len(before) :], token=begin, byte=len(before.encode()))


@given(st.data())
def test_pieces_that_overlap_in_any_way_make_the_text_once(data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="aé→𝄞", max_size=30))
    ids, output, seen, tokens = text.encode(), Output(), "", b""
    while output.tokens < len(ids):
        begin = data.draw(st.integers(0, output.tokens))
        end = data.draw(st.integers(output.tokens + 1, len(ids)))
        new = output.accept(piece(ids, text, begin, end))
        assert new is not None
        assert (new.token_offset, new.text_offset) == (len(tokens), len(seen.encode()))
        seen, tokens = seen + new.text, tokens + bytes(new.token_ids)
    assert (seen, tokens) == (text, ids)
    assert output.cursor() is None if not ids else output.cursor() == Cursor(ATTEMPT, len(ids), len(ids))


@given(st.binary(min_size=3, max_size=20), st.data())
def test_a_missing_token_is_noticed(ids: bytes, data: st.DataObject) -> None:
    output = Output()
    have = data.draw(st.integers(0, len(ids) - 2))
    if have:
        output.accept(delta(ids[:have]))
    with pytest.raises(StreamError, match=f"token {have} to {have + 1}"):
        output.accept(delta(ids[have + 1 :], token=have + 1))


def test_missing_text_is_noticed() -> None:
    with pytest.raises(StreamError, match="text 0 to 2"):
        Output().accept(delta([1], "x", byte=2))


def test_a_piece_that_begins_inside_a_character_is_noticed() -> None:
    output = Output()
    output.accept(delta([1], "a"))
    with pytest.raises(StreamError, match="inside a character"):
        output.accept(delta([2], "é", token=1))


def test_nothing_new_is_nothing() -> None:
    output = Output()
    whole = delta(b"ab", "ab")
    assert output.accept(whole) is not None
    assert output.accept(whole) is None


def test_logprobs_stay_with_their_tokens() -> None:
    output = Output()
    first, second = TokenLogprobs(-1.0, (), ()), TokenLogprobs(-2.0, (5,), (-0.5,))
    output.accept(delta([1], logprobs=(first,)))
    new = output.accept(delta([1, 2], logprobs=(first, second)))
    assert new is not None
    assert new.logprobs == (second,)
