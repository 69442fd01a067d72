"""Deltas of several attempts make one text: no gap, no repetition, whatever the cuts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost._output import Output
from roost.errors import StreamError
from roost.v1 import session_service_pb2 as pb

ATTEMPT = pb.Attempt(epoch=1, nonce=b"n" * 16)


def piece(ids: bytes, text: str, begin: int, end: int) -> pb.StepDelta:
    """Tokens [begin, end) and the whole characters that they complete, one token per byte."""
    before = ids[:begin].decode(errors="ignore")
    until = ids[:end].decode(errors="ignore")
    return pb.StepDelta(
        attempt=ATTEMPT,
        token_offset=begin,
        token_ids=ids[begin:end],
        text_offset=len(before.encode()),
        text=until[len(before) :],
    )


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
    assert (
        output.cursor() is None
        if not ids
        else output.cursor() == pb.Cursor(attempt=ATTEMPT, tokens=len(ids), text_bytes=len(ids))
    )


@given(st.binary(min_size=3, max_size=20), st.data())
def test_a_missing_token_is_noticed(ids: bytes, data: st.DataObject) -> None:
    output = Output()
    have = data.draw(st.integers(0, len(ids) - 2))
    if have:
        output.accept(pb.StepDelta(attempt=ATTEMPT, token_ids=ids[:have]))
    with pytest.raises(StreamError, match=f"token {have} to {have + 1}"):
        output.accept(pb.StepDelta(attempt=ATTEMPT, token_offset=have + 1, token_ids=ids[have + 1 :]))


def test_missing_text_is_noticed() -> None:
    with pytest.raises(StreamError, match="text 0 to 2"):
        Output().accept(pb.StepDelta(attempt=ATTEMPT, token_ids=[1], text_offset=2, text="x"))


def test_a_piece_that_begins_inside_a_character_is_noticed() -> None:
    output = Output()
    output.accept(pb.StepDelta(attempt=ATTEMPT, token_ids=[1], text="a"))
    with pytest.raises(StreamError, match="inside a character"):
        output.accept(pb.StepDelta(attempt=ATTEMPT, token_offset=1, token_ids=[2], text="é"))


def test_nothing_new_is_nothing() -> None:
    output = Output()
    whole = pb.StepDelta(attempt=ATTEMPT, token_ids=b"ab", text="ab")
    assert output.accept(whole) is not None
    assert output.accept(whole) is None


def test_logprobs_stay_with_their_tokens() -> None:
    output = Output()
    first = pb.StepDelta(attempt=ATTEMPT, token_ids=[1], logprobs=[pb.TokenLogprobs(logprob=-1.0)])
    output.accept(first)
    again = pb.StepDelta(
        attempt=ATTEMPT,
        token_ids=[1, 2],
        logprobs=[pb.TokenLogprobs(logprob=-1.0), pb.TokenLogprobs(logprob=-2.0, top_ids=[5], top_logprobs=[-0.5])],
    )
    new = output.accept(again)
    assert new is not None
    assert [(entry.logprob, entry.top_ids, entry.top_logprobs) for entry in new.logprobs] == [(-2.0, (5,), (-0.5,))]
