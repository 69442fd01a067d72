"""What waits to be written is written together, in order, in batches that are not too large."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.gathering_writer import BATCH_BYTES, GatheringWriter, frames_that_fit
from roost.v1.worker_service_pb2 import GenerateRequest, RequestFrame, Resume


def frame(number: int, size: int = 0) -> RequestFrame:
    """A frame that says its number, of about so many bytes."""
    return RequestFrame(stream=number, message=GenerateRequest(resume=Resume(session_id="x" * size)))


class Wire:
    """Takes what is written, once it is let through."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.opened, self.entered = asyncio.Event(), asyncio.Event()
        if is_open:
            self.opened.set()

    async def write(self, frames: Sequence[RequestFrame]) -> None:
        self.entered.set()
        await self.opened.wait()
        self.batches.append([frame.stream for frame in frames])


@given(sizes=st.lists(st.integers(0, 50), max_size=20), most=st.integers(0, 60))
def test_a_batch_has_as_many_frames_as_fit_and_at_least_one(sizes: list[int], most: int) -> None:
    count = frames_that_fit(iter(sizes), most)
    assert (count > 0) == bool(sizes)
    assert count <= 1 or sum(sizes[:count]) <= most
    assert count == len(sizes) or sum(sizes[: count + 1]) > most


async def test_what_is_added_before_the_writer_runs_is_one_batch() -> None:
    wire, writer = Wire(), GatheringWriter[RequestFrame]()
    for number in range(5):
        writer.put(frame(number))
    writer.finish()
    await writer.run(wire.write)
    assert wire.batches == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_a_batch_is_written_gathers() -> None:
    wire, writer = Wire(is_open=False), GatheringWriter[RequestFrame]()
    first = writer.put(frame(0))
    running = asyncio.create_task(writer.run(wire.write))
    await wire.entered.wait()
    others = [writer.put(frame(number)) for number in (1, 2, 3)]
    assert not first.done()
    wire.opened.set()
    assert await asyncio.gather(first, *others) == [True] * 4
    writer.finish()
    await running
    assert wire.batches == [[0], [1, 2, 3]]


async def test_a_batch_is_bounded_and_a_longer_frame_goes_alone() -> None:
    wire, writer = Wire(), GatheringWriter[RequestFrame]()
    for number, size in enumerate((BATCH_BYTES // 2, BATCH_BYTES // 3, BATCH_BYTES // 3, 2 * BATCH_BYTES, 1)):
        writer.put(frame(number, size))
    writer.finish()
    await writer.run(wire.write)
    assert wire.batches == [[0, 1], [2], [3], [4]]


async def test_a_frame_is_written_though_nobody_waits_for_it_any_more() -> None:
    wire, writer = Wire(), GatheringWriter[RequestFrame]()
    writer.put(frame(0)).cancel()
    writer.finish()
    await writer.run(wire.write)
    assert wire.batches == [[0]]


async def test_after_the_end_nothing_is_written_and_those_that_wait_hear_it() -> None:
    wire, writer = Wire(is_open=False), GatheringWriter[RequestFrame]()
    writer.put(frame(0))
    running = asyncio.create_task(writer.run(wire.write))
    await wire.entered.wait()
    waiting = writer.put(frame(1))
    writer.end()
    assert await waiting is False
    assert await writer.put(frame(2)) is False
    wire.opened.set()
    await running
    assert wire.batches == [[0]]


async def test_a_write_that_fails_is_raised_and_its_frames_were_not_written() -> None:
    async def fail(frames: Sequence[RequestFrame]) -> None:
        raise ConnectionError("gone")

    writer = GatheringWriter[RequestFrame]()
    written = writer.put(frame(0))
    with pytest.raises(ConnectionError):
        await writer.run(fail)
    assert written.result() is False
