"""Parts of an output: counted, cut and put together, by the contract, the SDK and the fake gateway."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost import (
    ArgumentsPart,
    CallPart,
    Delta,
    Message,
    MessageRole,
    Part,
    ReasoningPart,
    Restarted,
    TextPart,
    ToolCall,
)
from roost._fake_output import make_output
from roost._output import Output
from roost.contract.heads import AttemptRef
from roost.contract.messages import Sampling
from roost.contract.parts import PartLog, begins_with, cut, joined, parts_of_message, units
from roost.contract.steps import Cursor
from roost.errors import StreamError
from roost.testing import FakeGateway

ATTEMPT = AttemptRef(1, b"n" * 16)
texts = st.text("aé😀", max_size=3)
part = st.one_of(
    texts.map(TextPart),
    texts.map(ReasoningPart),
    st.builds(ArgumentsPart, st.integers(0, 1), texts),
    st.builds(CallPart, st.integers(0, 1), st.just("id"), st.just("grep")),
)
parts = st.lists(part, max_size=8)


def atoms(of: Any) -> list[Any]:
    """The units one by one."""
    return [
        (part.index, part.id) if isinstance(part, CallPart) else (type(part), getattr(part, "index", 0), character)
        for part in of
        for character in ([""] if isinstance(part, CallPart) else part.text)
    ]


@given(parts, st.integers(0, 30))
def test_what_comes_after_an_offset_is_the_rest(of: list[Part], offset: int) -> None:
    log = PartLog(of)
    assert log.size == len(atoms(of)) == sum(map(units, of))
    assert atoms(log.after(offset)) == atoms(cut(of, offset)) == atoms(of)[offset:]


@given(parts)
def test_joined_parts_are_the_same_ones_and_as_few_as_possible(of: list[Part]) -> None:
    few = joined(of)
    assert atoms(few) == atoms(of)
    assert all(units(part) for part in few)
    for before, after in pairwise(few):
        same_kind = type(before) is type(after) and getattr(before, "index", 0) == getattr(after, "index", 0)
        assert not same_kind or isinstance(before, CallPart)


@given(parts, parts, st.integers(0, 30))
def test_an_output_begins_with_what_has_the_same_first_units(of: list[Part], others: list[Part], count: int) -> None:
    beginning = _first(of, count)
    assert begins_with(of, beginning)
    for other in (others, [*beginning, *others]):
        first = atoms(other)
        assert begins_with(of, other) == (atoms(of)[: len(first)] == first)


@given(parts, st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_parts_that_overlap_in_any_way_come_once(of: list[Part], ranges: list[tuple[int, int]]) -> None:
    log, output, arrived = PartLog(of), Output(), list[Part]()
    for start, end in [*ranges, (0, log.size)]:
        offset, stop = min(start, output.parts), max(end, output.parts)
        sent = PartLog(cut(log.after(0), offset)).after(0)
        sent = tuple(_first(sent, stop - offset))
        delta = output.accept(Delta("", (), 0, 0, attempt=ATTEMPT, parts=sent, part_offset=offset))
        if delta is not None:
            assert delta.part_offset == PartLog(arrived).size
            arrived += delta.parts
    assert atoms(arrived) == atoms(of)
    assert output.parts == log.size


def _first(of: tuple[Part, ...], count: int) -> list[Part]:
    """The first `count` units, by the definition."""
    kept = list[Part]()
    for part in of:
        if units(part) > count:
            kept += [type(part)(*([part.index] if hasattr(part, "index") else []), part.text[:count])] if count else []
            break
        kept.append(part)
        count -= units(part)
    return kept


def test_parts_that_never_came_are_noticed() -> None:
    with pytest.raises(StreamError, match="part 0 to 2"):
        Output().accept(Delta("", (), 0, 0, parts=(TextPart("x"),), part_offset=2))


def test_the_cursor_has_the_parts_until_the_output_restarts() -> None:
    output = Output()
    output.accept(Delta("ab", (1, 2), 0, 0, attempt=ATTEMPT, parts=(TextPart("a"), CallPart(0, "id", "grep"))))
    assert output.cursor() == Cursor(ATTEMPT, 2, 2, 2)
    output.restart(Restarted("why", ATTEMPT))
    assert output.cursor() == Cursor(ATTEMPT)


REPLIES = (
    "plain é😀 ",
    "<think>\nHm.</think>\n\nIt is 42.",
    Message(MessageRole.ASSISTANT, "Look.", (ToolCall("c0", "grep", '{"q": "é"}'), ToolCall("c1", "w", "{}"))),
)


@pytest.mark.parametrize("reply", REPLIES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_fakes_deltas_have_all_parts_from_any_cursor(reply: Any, data: st.DataObject) -> None:
    output = make_output(reply, Sampling(), 1000)
    whole = parts_of_message(output.message.content, output.reasoning, output.message.tool_calls)
    deltas = list(output.deltas(Cursor(ATTEMPT), ATTEMPT, data.draw(st.integers(1, 9))))
    assert PartLog(part for delta in deltas for part in delta.parts).after(0) == whole
    have = deltas[: data.draw(st.integers(0, len(deltas)))]
    received = Output()
    for delta in have:
        received.accept(delta)
    rest = output.deltas(received.cursor() or Cursor(ATTEMPT), ATTEMPT, data.draw(st.integers(1, 9)))
    assert PartLog(part for delta in (*have, *rest) for part in delta.parts).after(0) == whole


async def test_a_call_is_streamed_to_the_sdks_caller_once_though_the_stream_breaks() -> None:
    call = ToolCall("call_0", "grep", '{"q": "roost"}')
    async with FakeGateway(lambda turn: Message(MessageRole.ASSISTANT, "Look.", (call,)), delta_tokens=3) as fake:
        session = await (await fake.connect()).open()
        fake.break_next_step(after_tokens=40)
        events = [event async for event in session.step("find it")]
    sent = PartLog(part for event in events if isinstance(event, Delta) for part in event.parts)
    assert sent.after(0) == parts_of_message("Look.", "", (call,))
