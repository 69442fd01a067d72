"""Output is re-read from any cursor without gap or overlap; stop strings cut it; readers displace one another."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.contract.heads import AttemptRef
from roost_worker.render.formats import Turn, format_named
from roost_worker.server.attempts import Attempt, AttemptTable, Ending
from roost_worker.server.output import OutputBuffer, OutputCursor, read_message

CHUNKS = st.lists(
    st.tuples(st.lists(st.integers(0, 100), max_size=3), st.text(alphabet="aé漢🦉", max_size=3)), max_size=8
)


class FixedText:
    """A text stream that knows each id's text, and stops at an id."""

    def __init__(self, texts=None, stop_id: int | None = None):
        self._texts, self._stop_id, self._seen = texts or {}, stop_id, 0
        self.stopped_at: int | None = None
        self.stop_string = ""

    def push(self, ids) -> str:
        text = ""
        for token in ids:
            self._seen += 1
            if token == self._stop_id:
                self.stopped_at = self._seen
                break
            text += self._texts.get(token, f"<{token}>")
        return text

    def flush(self) -> str:
        return "!"


FIRST = AttemptRef(1)


def running(ref: AttemptRef = FIRST, session: str = "s", stop_id: int | None = None, request: str = "r") -> Attempt:
    attempt = Attempt(request, session, ref)
    attempt.begin(array("I", [1]), FixedText(stop_id=stop_id))
    return attempt


@settings(max_examples=100, deadline=None)
@given(chunks=CHUNKS, reads=st.lists(st.integers(0, 8), max_size=4))
def test_pieces_join_to_the_whole_output_wherever_it_was_read(chunks, reads):
    buffer, cursor = OutputBuffer(), OutputCursor()
    ids, text = [], ""
    for index, (chunk_ids, chunk_text) in enumerate(chunks):
        buffer.append(chunk_ids, chunk_text)
        if index in reads and (piece := buffer.read(cursor)):
            assert (piece.token_offset, piece.text_offset) == (cursor.tokens, cursor.text_bytes)
            ids, text, cursor = [*ids, *piece.token_ids], text + piece.text, piece.end
    if piece := buffer.read(cursor):
        ids, text, cursor = [*ids, *piece.token_ids], text + piece.text, piece.end
    assert (ids, text) == (list(buffer.ids), buffer.text)
    assert buffer.read(cursor) is None


def test_a_cursor_inside_a_character_or_beyond_the_output_cannot_resume():
    buffer = OutputBuffer()
    buffer.append([1, 2], "é")
    assert buffer.can_resume(OutputCursor(2, 2))
    assert buffer.can_resume(OutputCursor(0, 0))
    assert not buffer.can_resume(OutputCursor(0, 1))
    assert not buffer.can_resume(OutputCursor(3, 0))
    assert not buffer.can_resume(OutputCursor(0, 3))


def test_logprobs_stay_beside_their_ids_when_earlier_ones_were_replayed():
    buffer = OutputBuffer()
    buffer.append([1, 2], "")
    buffer.append([3], "", [(-0.5, ((3, -0.5),))])
    assert buffer.read(OutputCursor(1, 0)).logprobs == ((0.0, ()), (-0.5, ((3, -0.5),)))
    with pytest.raises(ValueError, match="1 logprobs for 2 ids"):
        buffer.append([4, 5], "", [(0.0, ())])


def test_ids_after_a_complete_stop_string_are_dropped():
    attempt = running(stop_id=7)
    assert attempt.take([5]) is None
    assert attempt.take([6, 7, 8]) == 3
    assert attempt.take([9]) is None
    attempt.finish("stop")
    assert (list(attempt.output.ids), attempt.output.text) == ([5, 6, 7], "<5><6>!")


def test_replayed_output_can_complete_a_stop_string():
    attempt = Attempt("r", "s", AttemptRef(1))
    assert attempt.begin(array("I", [1]), FixedText(stop_id=7), [6, 7, 8]) == 2
    assert list(attempt.output.ids) == [6, 7]


async def test_a_new_reader_displaces_the_old_one_and_reads_from_its_own_cursor():
    attempt = running()
    first = attempt.attach(OutputCursor())
    attempt.take([5, 6])
    second = attempt.attach(OutputCursor(1, 3))
    await first.changed()
    attempt.detach(first, now=1.0)
    assert attempt.reader is second
    assert attempt.orphaned_at is None
    piece = attempt.next_slice(second)
    assert (piece.token_offset, list(piece.token_ids), piece.text) == (1, [6], "<6>")
    attempt.detach(second, now=2.0)
    assert attempt.orphaned_at == 2.0


async def test_the_first_ending_counts():
    attempt = running()
    attempt.end(Ending.FENCED)
    attempt.end(Ending.CANCELLED)
    assert attempt.ending is Ending.FENCED


def test_orphans_expire_only_when_nobody_took_them_over():
    table = AttemptTable()
    orphan, taken = running(), running(session="t", request="q")
    for attempt in (orphan, taken):
        table.add(attempt)
        attempt.detach(attempt.reader, now=10.0)
    assert table.expired(14.9, 5.0) == []
    taken.attach(OutputCursor())
    assert table.expired(15.0, 5.0) == [orphan]


def test_a_session_has_one_attempt_and_one_shot_work_any_number():
    table = AttemptTable()
    table.add(running())
    with pytest.raises(ValueError, match="still has an attempt"):
        table.add(running(AttemptRef(2), request="q"))
    table.add(running(AttemptRef(1, b"a"), session="", request="x"))
    table.add(running(AttemptRef(1, b"b"), session="", request="y"))
    table.check_integrity()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "rename", "remove"]), st.integers(0, 3)), max_size=20))
def test_the_indexes_of_the_attempt_table_agree(steps):
    table = AttemptTable()
    for epoch, (action, number) in enumerate(steps, 1):
        session = f"s{number}" if number else ""
        attempt = table.of_session(session) or next((a for a in table if a.session == session), None)
        if action == "add" and (attempt is None or not session):
            table.add(running(AttemptRef(epoch), session, request=f"r{epoch}"))
        elif action == "rename" and attempt:
            old = attempt.ref
            table.rename(attempt, AttemptRef(epoch))
            assert table.find(session, old) is None
            assert table.find(session, AttemptRef(epoch)) is attempt
        elif action == "remove" and attempt:
            table.remove(attempt)
            table.remove(attempt)
        table.check_integrity()


CALLS = "[TOOL_CALLS]grep[CALL_ID]{}[ARGS]{{}}[TOOL_CALLS]grep[CALL_ID]{}[ARGS]{{}}"


@pytest.mark.parametrize(
    ("name", "ids", "log", "kept"),
    [
        ("mistral-v11", ("abc123xyz", "abc123xyy"), "", (True, True)),
        ("mistral-v11", ("abc123xyz", "abc123xyz"), "", (True, False)),
        ("mistral-v11", ("abc123xyz", "abc123xyy"), "[TOOL_CALLS]w[CALL_ID]abc123xyy[ARGS]{}", (True, False)),
        ("mistral-v11", ("short", "much-too-long"), "", (False, False)),
    ],
)
def test_an_id_that_the_model_wrote_is_kept_if_the_session_has_no_other_one(name, ids, log, kept):
    message = read_message(CALLS.format(*ids), format_named(name), Turn({"grep"}), b"seed", lambda: log)
    given = [call.id for call in message.tool_calls]
    assert [call_id == written for call_id, written in zip(given, ids, strict=True)] == list(kept)
    assert len(set(given)) == 2
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in given)


def test_the_text_of_the_log_is_asked_for_once():
    texts = iter(["[TOOL_CALLS]w[CALL_ID]abc123xyy[ARGS]{}"])
    calls = CALLS.format("abc123xyz", "abc123xyy")
    message = read_message(calls, format_named("mistral-v11"), Turn({"grep"}), b"seed", lambda: next(texts))
    assert [call.id in calls for call in message.tool_calls] == [True, False]


def test_an_id_that_means_nothing_to_the_format_is_replaced_without_a_look_at_the_log():
    text = '<tool_call>{"name": "grep", "arguments": {}, "id": "abc123xyz"}</tool_call>'
    looked_at = lambda: pytest.fail("it was looked at")  # noqa: E731
    message = read_message(text, format_named("chatml"), Turn({"grep"}), b"seed", looked_at)
    assert [len(call.id) for call in message.tool_calls] == [37]
