"""Renders and encodes the prompts of steps, so that long ones hold no others up."""

import asyncio
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from roost.contract.lease import counted_bytes, fewest_tokens
from roost.v1 import worker_service_pb2 as pb
from roost_worker.render.dates import day_of
from roost_worker.render.errors import RenderError
from roost_worker.render.pieces import Piece
from roost_worker.render.renderer import Renderer
from roost_worker.server.refusals import invalid, step_too_long
from roost_worker.server.requests import INLINE_BYTES, is_replay, rendered_bytes, replayed_prompt
from roost_worker.server.stages import RENDERING, of_request

LONG_BYTES = 128 * 1024
"""Prompts of more text are encoded in turns; most steps send less."""


class Prompts:
    """The prompts of one worker's steps. It belongs to one event loop.

    Little text is rendered on the event loop, more of it in one of asyncio's threads. Prompts longer than `LONG_BYTES`
    share a thread, in which each has a slice encoded in its turn, so that they take neither all cores nor all threads.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._turns = ThreadPoolExecutor(1, "long-prompts", _yield_to_others)

    def close(self) -> None:
        self._turns.shutdown(wait=False, cancel_futures=True)

    async def prompt(
        self, start: pb.Start, log_ids: "array[int]", limit: int, check: Callable[[], None]
    ) -> "array[int]":
        """Return the ids of the prompt of a step that continues `log_ids`, in a context of `limit` tokens.

        `check` is called after each slice, and ends the work by what it raises. Raise Refused: INVALID_REQUEST, and
        STEP_TOO_LONG as soon as the prompt is known not to fit.
        """
        if is_replay(start):
            return replayed_prompt(start, self._renderer)
        size = counted_bytes(message.content for message in start.messages)
        least = fewest_tokens(size, self._renderer.vocabulary.max_bytes_per_token)
        if least and len(log_ids) + least >= limit:
            raise step_too_long(len(log_ids), least, limit, at_least=True)
        try:
            return await self._encoded(start, log_ids, limit, check)
        except RenderError as error:
            raise invalid(str(error), field="messages") from error

    async def _encoded(
        self, start: pb.Start, log_ids: "array[int]", limit: int, check: Callable[[], None]
    ) -> "array[int]":
        size = rendered_bytes(start, first=not log_ids)
        if size <= INLINE_BYTES:
            return self._encode(self._pieces(start, log_ids))
        pieces = await asyncio.to_thread(self._pieces, start, log_ids)
        if size <= LONG_BYTES:
            return await asyncio.to_thread(self._encode, pieces)
        slices, ids = self._renderer.vocabulary.encode_slices(pieces), array("I")
        loop = asyncio.get_running_loop()
        while (part := await loop.run_in_executor(self._turns, _next, slices)) is not None:
            check()
            ids.extend(part)
            if len(log_ids) + len(ids) >= limit:
                raise step_too_long(len(log_ids), len(ids), limit, at_least=True)
        return ids

    def _pieces(self, start: pb.Start, log_ids: "array[int]") -> list[Piece]:
        with of_request(RENDERING):
            return self._renderer.step_pieces(
                messages=start.messages,
                log_ids=log_ids,
                system=start.system,
                tools=start.tools,
                day=day_of(start.date),
            )

    def _encode(self, pieces: list[Piece]) -> "array[int]":
        with of_request(RENDERING):
            return self._renderer.vocabulary.encode(pieces)


def _next(slices: "Iterator[array[int]]") -> "array[int] | None":
    """The ids of the next slice, or None at the end."""
    with of_request(RENDERING):
        return next(slices, None)


def _yield_to_others() -> None:
    """Give the calling thread a tenth of a core that an engine or another stream wants, too."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
