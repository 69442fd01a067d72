"""Runs requests on an engine, and notes when their tokens come."""

import asyncio
import time
from array import array
from dataclasses import dataclass, field
from itertools import count

from roost_worker.engine.messages import (
    Cancel,
    EngineStats,
    Evict,
    Hold,
    Outputs,
    RequestOutput,
    SamplingParams,
    StopReason,
    Submit,
)
from roost_worker.seam.client import EngineClient, EngineDeadError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got. Times are of `time.monotonic`."""

    submitted: float
    token_ids: tuple[int, ...]
    token_times: tuple[float, ...]
    """When each token came."""
    cached_tokens: int

    @property
    def ttft_seconds(self) -> float:
        return self.token_times[0] - self.submitted


@dataclass(slots=True)
class _Request:
    ended: "asyncio.Future[None]"
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    cached_tokens: int = 0


class TimedEngine:
    """A client of one engine; it is the only one. Use it as an async context manager, which closes the engine."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._requests: dict[str, _Request] = {}
        self._numbers = count()
        self.stats = EngineStats()
        """As the engine reported them last."""

    async def __aenter__(self) -> "TimedEngine":
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.aclose()
        await self._reader

    async def run(self, session: str, token_ids: "array[int]", output_tokens: int, cache_key: bytes) -> Answer:
        """Generate exactly `output_tokens` after a context. What is cached under another key is not reused.

        Raise EngineDeadError, and ValueError when the engine refuses the request or the context ends before.
        """
        name = f"request-{next(self._numbers)}"
        request = self._requests[name] = _Request(asyncio.get_running_loop().create_future())
        submitted = time.monotonic()
        sampling = SamplingParams(max_tokens=output_tokens)
        try:
            self._engine.send(Submit(name, token_ids, len(token_ids), sampling, cache_key, session))
            await request.ended
        except asyncio.CancelledError:
            self._engine.send(Cancel(name))
            raise
        finally:
            del self._requests[name]
        if len(request.token_ids) != output_tokens:
            raise ValueError(
                f"{len(token_ids)} and {output_tokens} tokens do not fit the context; raise --context-tokens"
            )
        return Answer(submitted, tuple(request.token_ids), tuple(request.token_times), request.cached_tokens)

    def hold(self, session: str) -> None:
        """Say that the session's client runs a tool, for a time that it does not know."""
        self._engine.send(Hold(session, 0.0))

    def evict(self, session: str) -> None:
        """Drop what is cached of a session alone."""
        self._engine.send(Evict(session))

    async def _read(self) -> None:
        try:
            async for frame in self._engine.outputs():
                self._take(frame, time.monotonic())
        except EngineDeadError as error:
            for request in self._requests.values():
                request.ended.set_exception(error)

    def _take(self, frame: Outputs, now: float) -> None:
        self.stats = frame.stats
        for output in frame.outputs:
            request = self._requests.get(output.request_id)
            if request is not None and not request.ended.done():
                _add(request, output, now)


def _add(request: _Request, output: RequestOutput, now: float) -> None:
    request.token_ids.extend(output.token_ids)
    request.token_times.extend([now] * len(output.token_ids))
    request.cached_tokens = output.cached_tokens if output.cached_tokens is not None else request.cached_tokens
    if output.stop is StopReason.FAILED:
        request.ended.set_exception(ValueError(output.error))
    elif output.stop is not None:
        request.ended.set_result(None)
