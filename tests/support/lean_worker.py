"""The null worker of benchmarks."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from null_script import BASE_ID
from null_worker import NullWorker
from roost.contract.steps import CHECKPOINT_SECONDS, INTERVAL_SECONDS, gathered_by
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb

Context = grpc.aio.ServicerContext[Any, Any]

GATHERING_SECONDS = {pb.DELTAS_NONE: CHECKPOINT_SECONDS, pb.DELTAS_INTERVAL: INTERVAL_SECONDS}


class LeanWorker(NullWorker):
    """A null worker for benchmarks: no orphans and no replay, but little work of its own. The text of each delta is
    the time at which it was sent, so that a reader on the same machine knows how long it was under way."""

    async def Generate(self, requests: AsyncIterator[wpb.GenerateRequest], context: Context) -> None:  # noqa: N802
        first = await anext(aiter(requests))
        accepted = wpb.Accepted(prompt_token_ids=range(self.script.prompt_ids))
        await context.write(wpb.GenerateResponse(accepted=accepted))
        texts = list[str]()
        async for piece in self._pieces(GATHERING_SECONDS.get(first.start.deltas, 0.0)):
            at, text = len(texts), "".join(piece)
            delta = wpb.Delta(
                token_offset=at,
                token_ids=range(BASE_ID + at, BASE_ID + at + len(piece)),
                text_offset=at * STAMP_BYTES,
                text=text,
                part_offset=at * STAMP_BYTES,
                parts=[pb.OutputPart(text=text)],
            )
            texts += piece
            await context.write(wpb.GenerateResponse(delta=delta))
        text = "".join(texts)
        finished = wpb.Finished(finish_reason=pb.FINISH_REASON_STOP, output_tokens=len(texts), text=text, content=text)
        await context.write(wpb.GenerateResponse(finished=finished))
        async for _ in requests:
            pass

    async def _pieces(self, gathering_seconds: float) -> AsyncIterator[list[str]]:
        """The texts of the script's tokens, as a worker sends them that lets output gather for so long. All steps have
        their tokens at the same moments, as with the iterations of an engine."""
        begin, due, held = self._next_iteration(), 0.0, list[str]()
        for number in range(self.script.tokens):
            at = begin + (number + 1) * self.script.interval
            if held and due < at:
                await _sleep_until(due)
                due = gathered_by(time.monotonic(), gathering_seconds)
                yield held
                held = []
            await _sleep_until(at)
            held.append(stamp(time.monotonic()))
            if time.monotonic() >= due:
                due = gathered_by(time.monotonic(), gathering_seconds)
                yield held
                held = []
        if held:
            yield held

    def _next_iteration(self) -> float:
        now, interval = time.monotonic(), self.script.interval
        return math.ceil(now / interval) * interval if interval else now


async def _sleep_until(seconds: float) -> None:
    await asyncio.sleep(max(0.0, seconds - time.monotonic()))


STAMP_BYTES = 17


def stamp(seconds: float) -> str:
    """A time as a text of `STAMP_BYTES` bytes."""
    return f"{seconds:016.6f} "
