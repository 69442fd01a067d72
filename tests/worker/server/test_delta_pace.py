"""Output gathers in the worker between two deltas, as the step's client asked for, and is whole in the end."""

import asyncio
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import worker_harness
from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.contract.heads import AttemptRef
from roost.contract.parts import PartLog
from roost.contract.steps import CHECKPOINT_SECONDS, GRID_SECONDS, INTERVAL_SECONDS, gathered_by
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server import generate
from roost_worker.server.attempts import Attempt, Ending
from roost_worker.server.output import OutputBuffer, OutputCursor
from worker_harness import Ledger, World

NEVER = 3600.0
"""A pace at which no second delta comes before the output ends."""
TEXT = "a step's whole output"

PARTS: st.SearchStrategy[Part] = st.one_of(
    st.builds(TextPart, st.text("aé🦉", max_size=3)),
    st.builds(ReasoningPart, st.text("bü", max_size=3)),
    st.builds(CallPart, st.integers(0, 1), st.just("id"), st.just("name")),
    st.builds(ArgumentsPart, st.integers(0, 1), st.text('{"}', max_size=3)),
)
PRODUCED = st.tuples(
    st.lists(st.integers(0, 9), max_size=3), st.text("aé🦉", max_size=3), st.lists(PARTS, max_size=3), st.booleans()
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PRODUCED, max_size=10), st.booleans())
def test_deltas_join_to_the_same_output_however_it_gathered(produced, with_logprobs):
    buffer, cursor = OutputBuffer(), OutputCursor()
    ids, text, parts, logprobs = [], "", PartLog(), []
    for new_ids, new_text, new_parts, is_read in [*produced, ((), "", (), True)]:
        buffer.append(new_ids, new_text, [(-float(token), ()) for token in new_ids] if with_logprobs else ())
        buffer.parts.extend(new_parts)
        piece = buffer.read(cursor) if is_read else None
        if piece is not None:
            assert (piece.token_offset, piece.text_offset) == (len(ids), len(text.encode()))
            assert piece.part_offset == parts.size
            ids, text, cursor = [*ids, *piece.token_ids], text + piece.text, piece.end
            parts.extend(piece.parts)
            logprobs += piece.logprobs
    assert (ids, text) == ([token for new, *_ in produced for token in new], "".join(new for _, new, *_ in produced))
    assert parts.after(0) == PartLog(part for _, _, new, _ in produced for part in new).after(0)
    assert logprobs == ([(-float(token), ()) for token in ids] if with_logprobs else [])


class Letters:
    """A text source with a letter for each token."""

    stopped_at = None
    stop_string = ""

    def push(self, ids) -> str:
        return "x" * len(ids)

    def flush(self) -> str:
        return ""


def running(interval: float) -> Attempt:
    attempt = Attempt("r", "s", AttemptRef(1))
    attempt.begin(array("I", [1]), Letters())
    attempt.attach(OutputCursor()).interval = interval
    return attempt


async def is_awake(attempt: Attempt) -> bool:
    """Whether the attempt's reader has something to do."""
    waiting = asyncio.ensure_future(attempt.reader.changed())
    await asyncio.sleep(0)
    waiting.cancel()
    return waiting.done()


@given(st.floats(0, 1e6), st.floats(GRID_SECONDS, 1.0), st.floats(0, 0.999))
def test_outputs_that_began_to_gather_at_about_the_same_time_are_due_together(now, seconds, later):
    due = gathered_by(now, seconds)
    assert now + seconds - 1.001 * GRID_SECONDS < due <= now + seconds + 1e-6
    other = gathered_by(due - seconds + later * GRID_SECONDS + 1e-6, seconds)
    assert other == due


async def test_the_first_token_wakes_the_reader_and_what_follows_lets_it_sleep():
    attempt = running(NEVER)
    attempt.take([1])
    assert await is_awake(attempt)
    assert attempt.next_slice(attempt.reader).text == "x"
    attempt.take([2])
    attempt.take([3])
    assert not await is_awake(attempt)


async def test_output_gathers_too_after_a_read_that_nothing_was_awaited_for():
    """As the first one of a stream that takes an attempt over."""
    attempt = running(NEVER)
    attempt.take([1])
    assert attempt.next_slice(attempt.reader).text == "x"
    attempt.take([2])
    assert not await is_awake(attempt)
    attempt.finish("stop")
    assert await is_awake(attempt)


@pytest.mark.parametrize("end", [lambda attempt: attempt.finish("stop"), lambda attempt: attempt.end(Ending.FENCED)])
async def test_the_end_of_an_attempt_wakes_the_reader_at_once(end):
    attempt = running(NEVER)
    attempt.take([1])
    attempt.next_slice(attempt.reader)
    attempt.take([2])
    end(attempt)
    assert attempt.reader._timer is None
    await attempt.reader.changed()


async def test_what_gathered_wakes_the_reader_when_its_time_has_come():
    attempt = running(0.001)
    attempt.take([1])
    await attempt.reader.changed()
    attempt.next_slice(attempt.reader)
    attempt.take([2])
    await attempt.reader.changed()
    assert attempt.next_slice(attempt.reader).text == "x"


async def test_a_reader_without_output_has_no_timer():
    attempt = running(0.001)
    attempt.take([1])
    attempt.next_slice(attempt.reader)
    assert attempt.reader._timer is None


@pytest.fixture(params=[api.DELTAS_NONE, api.DELTAS_INTERVAL])
def gathering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "api.Deltas.ValueType":
    """A mode in which output gathers, here until it ends."""
    monkeypatch.setitem(generate._GATHERING_SECONDS, request.param, NEVER)
    return request.param


async def test_a_step_is_its_first_token_and_then_the_rest(world: World, gathering) -> None:
    ids = world.script(1, TEXT)
    world.gate.close()
    stream = await world.begin(Ledger(), deltas=gathering)
    await stream.until("accepted")
    world.gate.let(1)
    await stream.until_tokens(1)
    world.gate.open()
    await stream.until("finished")
    assert [len(delta.token_ids) for delta in stream.out.deltas] == [1, len(ids) - 1]
    assert (stream.out.ids, stream.out.text) == (ids, TEXT)
    assert stream.out.parts.after(0) == (TextPart(TEXT),)


def gathering_seconds(world: World, ledger: Ledger) -> float:
    """Seconds for which output gathers for the stream that reads the session's step."""
    return world.server.shell.attempts.of_session(ledger.session_id).reader.interval


def resume(ledger: Ledger, **fields) -> pb.Resume:
    """Takes over the ledger's attempt by its next one."""
    old = worker_harness.attempt(ledger.epoch)
    return pb.Resume(attempt=old, new_attempt=ledger.next_attempt(), session_id=ledger.session_id, **fields)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (api.DELTAS_UNSPECIFIED, 0.0),  # an older gateway
        (api.DELTAS_NONE, CHECKPOINT_SECONDS),
        (api.DELTAS_INTERVAL, INTERVAL_SECONDS),
        (api.DELTAS_EACH, 0.0),
    ],
)
async def test_output_gathers_for_as_long_as_start_and_resume_say(world: World, asked: int, seconds: float) -> None:
    world.script(1, TEXT)
    world.gate.close()
    ledger = Ledger()
    stream = await world.begin(ledger, deltas=asked)
    await stream.until("accepted")
    assert gathering_seconds(world, ledger) == seconds
    stream.break_off()
    again = world.stream()
    await again.send(resume=resume(ledger, deltas=asked))
    await again.until("accepted")
    assert gathering_seconds(world, ledger) == seconds


async def test_an_orphan_is_resumed_at_another_pace(world: World, gathering) -> None:
    ids, ledger = world.script(1, TEXT), Ledger()
    world.gate.close()
    stream = await world.begin(ledger, deltas=gathering)
    world.gate.let(1)
    await stream.until_tokens(1)
    world.gate.let(3)
    await world.gate.reached()
    stream.break_off()
    again = world.stream()
    again.out.tokens = again.out.text_bytes = again.out.part_offset = 1
    await again.send(resume=resume(ledger, from_token=1, from_text_byte=1, from_part=1, deltas=api.DELTAS_EACH))
    await again.until("accepted")
    await again.until_tokens(3)
    world.gate.let(1)
    await again.until_tokens(4)
    world.gate.open()
    await again.until("finished")
    assert again.out.ids == ids[1:]


async def test_what_gathers_is_sent_while_the_engine_pauses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As checkpoints are, on which another worker goes on when this one dies."""
    monkeypatch.setitem(generate._GATHERING_SECONDS, api.DELTAS_NONE, 0.01)
    world.script(1, TEXT)
    world.gate.close()
    stream = await world.begin(Ledger(), deltas=api.DELTAS_NONE)
    world.gate.let(4)
    await stream.until_tokens(4)
    assert stream.out.text == TEXT[:4]
    assert stream.finished is None
