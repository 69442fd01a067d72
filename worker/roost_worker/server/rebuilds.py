"""Rebuilds: sessions' KV that is computed ahead of their next steps. Its only I/O is what it sends the engine."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from roost.contract.refused import Refused
from roost_worker.engine.messages import (
    BACKGROUND,
    Cancel,
    EngineMessage,
    RequestOutput,
    SamplingParams,
    StopReason,
    Submit,
)
from roost_worker.server import refusals
from roost_worker.server.session_log import SessionLog

MOST_AT_ONCE = 2
"""Most sessions that a worker rebuilds at once, for all gateways: one is computed while the next one's log arrives."""


class Rebuild:
    """One session's rebuild, until its KV is cached or something ends it."""

    def __init__(self, session: str, request_id: str) -> None:
        self.session, self.request_id = session, request_id
        self.submitted = False
        self.cached_tokens = 0
        """Tokens of the log that were cached before."""
        self._refusal: Refused | None = None
        self._over = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def check(self) -> None:
        """Raise the Refused that has ended it, if one has."""
        if self._refusal is not None:
            raise self._refusal

    def end(self, refusal: Refused | None = None) -> None:
        """End it: its KV is cached, or there is a refusal. Only the first end counts."""
        if not self.over:
            self._refusal = refusal
            self._over.set()

    async def wait(self) -> None:
        """Wait for the end. Raise the Refused that has ended it, if one has."""
        await self._over.wait()
        self.check()


class Rebuilds:
    """The rebuilds of one worker: at most one of a session, and `MOST_AT_ONCE` in all."""

    def __init__(self, send: Callable[[EngineMessage], None]) -> None:
        """`send` gives the engine a message; it raises Refused when the engine is gone."""
        self._send = send
        self._by_session: dict[str, Rebuild] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._by_session)

    @contextmanager
    def running(self, session: str) -> Iterator[Rebuild]:
        """Hold a place for a session's rebuild during the block, after which it is over in any case.

        Raise Refused: QUEUE_FULL when there is no place, also while the session is being rebuilt.
        """
        if session in self._by_session or len(self._by_session) >= MOST_AT_ONCE:
            raise refusals.too_many_rebuilds(MOST_AT_ONCE)
        rebuild = self._by_session[session] = Rebuild(session, f"rebuild-{next(self._numbers)}")
        try:
            yield rebuild
        finally:
            self._end(rebuild, refusals.fenced())
            del self._by_session[session]

    def submit(self, rebuild: Rebuild, log: SessionLog, cache_key: bytes) -> None:
        """Have the engine compute the log's KV. The one token that it draws after that is dropped.

        Raise Refused when the engine is gone.
        """
        sampling = SamplingParams(max_tokens=1)
        self._send(
            Submit(rebuild.request_id, log.ids, len(log.ids), sampling, cache_key, rebuild.session, priority=BACKGROUND)
        )
        rebuild.submitted = True

    def take(self, output: RequestOutput) -> None:
        """Take what the engine says of a rebuild; of other requests nothing."""
        rebuild = self._find(output.request_id)
        if rebuild is None:
            return
        if output.cached_tokens is not None:
            rebuild.cached_tokens = output.cached_tokens
        if output.stop in (StopReason.STOP, StopReason.LENGTH):
            rebuild.end()
        elif output.stop is not None:
            rebuild.end(refusals.failed(output.error or "the rebuild was cancelled"))

    def end(self, session: str) -> None:
        """End the session's rebuild, because a step of it comes or its KV is to go. What is computed stays cached."""
        rebuild = self._by_session.get(session)
        if rebuild is not None:
            self._end(rebuild, refusals.fenced())

    def lose(self) -> None:
        """End all of them, because the engine is gone."""
        for rebuild in self._by_session.values():
            rebuild.end(refusals.lost())

    def _end(self, rebuild: Rebuild, refusal: Refused) -> None:
        runs = rebuild.submitted and not rebuild.over
        rebuild.end(refusal)
        if runs:
            with suppress(Refused):
                self._send(Cancel(rebuild.request_id))

    def _find(self, request_id: str) -> Rebuild | None:
        rebuilds = self._by_session.values()
        return next((rebuild for rebuild in rebuilds if rebuild.request_id == request_id), None)
