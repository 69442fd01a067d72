"""A writer that lets what waits gather: it writes all of it together. Both ends of a trunk write so, the call that
carries the streams of many steps between a gateway and a worker."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from google.protobuf.message import Message

BATCH_BYTES = 1 << 20
"""Most bytes that are written together; a longer frame is written alone."""

_Frame = TypeVar("_Frame", bound=Message)
Write = Callable[[list[_Frame]], Awaitable[None]]


def frames_that_fit(sizes: Iterable[int], most_bytes: int = BATCH_BYTES) -> int:
    """How many of the frames of these `sizes` are written together: as many as fit, but at least one, if there is one.

    It takes no more of the sizes than up to the first that does not fit.
    """
    count = total = 0
    for size in sizes:
        total += size
        if count and total > most_bytes:
            break
        count += 1
    return count


class GatheringWriter(Generic[_Frame]):
    """Frames that wait to be written, in the order in which they were put in."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[_Frame, asyncio.Future[bool]]] = deque()
        self._changed = asyncio.Event()
        self._finishing = self._over = False

    def put(self, frame: _Frame) -> "asyncio.Future[bool]":
        """Adds a frame. The future is done once it is written, with True, or after `end`, with False.

        Whoever waits for it before adding the next frame lets output gather while the other side is slow to read. A
        frame is written even if nobody waits for it any more.
        """
        written = asyncio.get_running_loop().create_future()
        if self._over:
            written.set_result(False)
        else:
            self._waiting.append((frame, written))
            self._changed.set()
        return written

    def finish(self) -> None:
        """Lets `run` return as soon as nothing waits."""
        self._finishing = True
        self._changed.set()

    def end(self) -> None:
        """Drops what waits, and every frame from now on. Lets `run` return."""
        self._over = True
        self._changed.set()
        while self._waiting:
            _settle(self._waiting.popleft()[1], written=False)

    async def run(self, write: Write[_Frame]) -> None:
        """Writes, a batch at a time, until `finish` or `end`. Raises what `write` raises."""
        while True:
            while self._waiting:
                await self._write_batch(write)
            if self._finishing or self._over:
                return
            self._changed.clear()
            await self._changed.wait()

    async def _write_batch(self, write: Write[_Frame]) -> None:
        count = frames_that_fit(frame.ByteSize() for frame, _ in self._waiting)
        batch = [self._waiting.popleft() for _ in range(count)]
        written = False
        try:
            await write([frame for frame, _ in batch])
            written = True
        finally:
            for _, future in batch:
                _settle(future, written=written)


def _settle(future: "asyncio.Future[bool]", *, written: bool) -> None:
    if not future.done():  # it was cancelled with the task that waited for it
        future.set_result(written)
