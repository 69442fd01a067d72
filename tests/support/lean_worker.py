"""The null worker of benchmarks."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from null_script import BASE_ID
from null_worker import NullWorker
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb

Context = grpc.aio.ServicerContext[Any, Any]


class LeanWorker(NullWorker):
    """A null worker for benchmarks: no orphans and no replay, but little work of its own. The text of each delta is
    the time at which it was sent, so that a reader on the same machine knows how long it was under way."""

    async def Generate(self, requests: AsyncIterator[wpb.GenerateRequest], context: Context) -> None:  # noqa: N802
        await anext(aiter(requests))
        script = self.script
        accepted = wpb.Accepted(prompt_token_ids=range(script.prompt_ids))
        await context.write(wpb.GenerateResponse(accepted=accepted))
        begin, texts = time.monotonic(), list[str]()
        for number in range(script.tokens):
            await asyncio.sleep(max(0.0, begin + (number + 1) * script.interval - time.monotonic()))
            text = stamp(time.monotonic())
            delta = wpb.Delta(
                token_offset=number,
                token_ids=(BASE_ID + number,),
                text_offset=number * STAMP_BYTES,
                text=text,
                part_offset=number * STAMP_BYTES,
                parts=[pb.OutputPart(text=text)],
            )
            texts.append(text)
            await context.write(wpb.GenerateResponse(delta=delta))
        text = "".join(texts)
        finished = wpb.Finished(
            finish_reason=pb.FINISH_REASON_STOP, output_tokens=script.tokens, text=text, content=text
        )
        await context.write(wpb.GenerateResponse(finished=finished))
        async for _ in requests:
            pass


STAMP_BYTES = 17


def stamp(seconds: float) -> str:
    """A time as a text of `STAMP_BYTES` bytes."""
    return f"{seconds:016.6f} "
