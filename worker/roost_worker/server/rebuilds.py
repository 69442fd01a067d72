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
    Outputs,
    Pause,
    RequestOutput,
    SamplingParams,
    StopReason,
    Submit,
)
from roost_worker.server import refusals
from roost_worker.server.rebuilt_ahead import RebuiltAhead
from roost_worker.server.residency import SessionResidency
from roost_worker.server.session_log import SessionLog

MOST_AT_ONCE = 2
"""Most sessions that a worker rebuilds at once, for all gateways: one is computed while the next one's log arrives."""


class Rebuild:
    """One session's rebuild, until its KV is cached or something ends it."""

    def __init__(self, session: str, request_id: str, pause: Pause | None = None) -> None:
        """`pause`: it is ahead of the session's return from there."""
        self.session, self.request_id, self.pause = session, request_id, pause
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
        self.ahead = RebuiltAhead()
        self._by_session: dict[str, Rebuild] = {}
        self._sessions_ahead: dict[str, str] = {}
        """Requests that the engine has not ended -> the sessions ahead of whose returns they are."""
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._by_session)

    @contextmanager
    def running(self, session: str, pause: Pause | None = None) -> Iterator[Rebuild]:
        """Hold a place for a session's rebuild during the block, after which it is over in any case. One without a
        `pause` ends those ahead of returns.

        Raise Refused: QUEUE_FULL when there is no place, also while the session is being rebuilt.
        """
        if pause is None:
            self._end_ahead()
        if session in self._by_session or len(self._by_session) >= MOST_AT_ONCE:
            raise refusals.too_many_rebuilds(MOST_AT_ONCE)
        rebuild = self._by_session[session] = Rebuild(session, f"rebuild-{next(self._numbers)}", pause)
        try:
            yield rebuild
        finally:
            self._end(rebuild, refusals.fenced())
            del self._by_session[session]

    def submit(self, rebuild: Rebuild, log: SessionLog, cache_key: bytes, role: str) -> None:
        """Have the engine compute the log's KV. The one token that it draws after that is dropped.

        Raise Refused when the engine is gone.
        """
        ids, sampling = log.ids, SamplingParams(max_tokens=1)
        request_id, session, pause = rebuild.request_id, rebuild.session, rebuild.pause
        self._send(Submit(request_id, ids, len(ids), sampling, cache_key, session, None, BACKGROUND, role, pause))
        rebuild.submitted = True
        if pause:
            self._sessions_ahead[request_id] = session

    def take(self, output: RequestOutput) -> None:
        """Take what the engine says of a rebuild; of other requests nothing."""
        if output.stop is not None and (session := self._sessions_ahead.pop(output.request_id, None)):
            self.ahead.add(session, output.cached_tokens or 0, output.computed_tokens)
        rebuild = self._find(output.request_id)
        if rebuild is None:
            return
        if output.cached_tokens is not None:
            rebuild.cached_tokens = output.cached_tokens
        if output.stop in (StopReason.STOP, StopReason.LENGTH):
            rebuild.end()
        elif output.stop is StopReason.CANCELLED and rebuild.pause:
            rebuild.end(refusals.not_idle())
        elif output.stop is not None:
            rebuild.end(refusals.failed(output.error or "the rebuild was cancelled"))

    def take_cached(self, outputs: Outputs, residency: SessionResidency) -> None:
        """Take what is not cached any more of what was rebuilt ahead. `residency` has taken the outputs."""
        for session in {name for name, _ in (*outputs.parked, *outputs.dropped, *outputs.warm)}:
            self.ahead.keep(session, residency.tokens(session))

    def make_way(self, session: str) -> None:
        """End the session's rebuild and those ahead of returns, because a step of it comes. What is computed stays
        cached."""
        self.end(session)
        self._end_ahead()

    def end(self, session: str) -> None:
        """End the session's rebuild, because a step of it comes or its KV is to go. What is computed stays cached."""
        rebuild = self._by_session.get(session)
        if rebuild is not None:
            self._end(rebuild, refusals.fenced())

    def lose(self) -> None:
        """End all of them, because the engine is gone."""
        for rebuild in self._by_session.values():
            rebuild.end(refusals.lost())

    def _end_ahead(self) -> None:
        for rebuild in self._by_session.values():
            if rebuild.pause:
                self._end(rebuild, refusals.not_idle())

    def _end(self, rebuild: Rebuild, refusal: Refused) -> None:
        runs = rebuild.submitted and not rebuild.over
        rebuild.end(refusal)
        if runs:
            with suppress(Refused):
                self._send(Cancel(rebuild.request_id))

    def _find(self, request_id: str) -> Rebuild | None:
        rebuilds = self._by_session.values()
        return next((rebuild for rebuild in rebuilds if rebuild.request_id == request_id), None)
