"""Moves of sessions from a worker to others, by the gateway that has the claim to them.

A session's log is computed at its new home first; then one script makes that its owner, unless a step runs or has
changed the log by then; then the old home drops it. A step that comes before goes to the old home.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_MS
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.moves import Move, Resident
from roost.store.records import Descriptor
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.rebuild import rebuild
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")


class WorkerMoves:
    """One gateway's moves from one worker."""

    def __init__(
        self, pool: str, worker: WorkerState, gateway: str, store: SessionStore, fleet: Fleet, telemetry: Telemetry
    ) -> None:
        self._pool, self._worker, self._gateway = pool, worker, gateway
        self._store, self._fleet, self._telemetry = store, fleet, telemetry

    async def claimed(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Does `work` while no other gateway moves the worker's sessions. Returns what it returns, or None when another
        gateway has the claim, or gets it before the end. Raises StoreAwayError."""
        if not await self._claim():
            return None
        working = asyncio.ensure_future(work())
        try:
            while not (await asyncio.wait([working], timeout=LEASE_PERIOD_SECONDS))[0]:
                if not await self._claim():
                    log.warning("another gateway moves the sessions of worker %s now", self._worker.worker_id)
                    return None
            return working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def finish(self) -> None:
        """Tells the worker that what is left cannot be moved."""
        await self._store.moves.finish(self._pool, self._worker.worker_id, self._gateway, LEASE_TTL_MS)

    async def residents(self) -> list[Resident]:
        """The sessions whose next step would go to the worker."""
        residents = await self._store.moves.residents(self._pool, self._worker.worker_id)
        return [resident for resident in residents if self._is_at_home(resident)]

    async def move(self, resident: Resident, home: WorkerState, seconds: float, reason: str) -> bool:
        """Computes a session's log at another worker, within `seconds`, and makes that its home. Returns whether it has
        moved: not when a step runs, or it has left already.

        `reason` is for the metrics. Raises RebuildError, Refused as `SessionMoves.move` does, StoreAwayError.
        """
        session = await self._store.get(resident.session_id, resident.tenant)
        if session.attempt is not None or session.owner != self._worker.worker_id:
            return False
        tokens = await rebuild(session, home, self._fleet.clients, self._store, max(0.0, seconds))
        epoch = await self._store.moves.move(self._move_of(session, home))
        self._telemetry.session_moved(tokens, reason)
        await self._fleet.clients.evict(self._pool, [self._worker], session.session_id, epoch)
        await self._hold_again(session, home)
        return True

    async def _claim(self) -> bool:
        return await self._store.moves.claim(self._pool, self._worker.worker_id, self._gateway, LEASE_TTL_MS)

    def _is_at_home(self, resident: Resident) -> bool:
        at_home = resident.owner == self._worker.worker_id and not resident.closed and resident.log_tokens > 0
        return at_home and not self._is_rendered_again(resident)

    def _is_rendered_again(self, resident: Resident) -> bool:
        """Whether the session's log becomes another revision's before its next step."""
        pool = self._fleet.pools.known(self._pool)
        return pool is not None and pool.migrates and pool.active_revision not in ("", resident.model_revision)

    def _move_of(self, session: Descriptor, home: WorkerState) -> Move:
        return Move(
            session_id=session.session_id,
            gateway=self._gateway,
            worker=self._worker.worker_id,
            to=home.worker_id,
            head=session.head,
            generation=session.generation,
            request=secrets.token_hex(16),
        )

    async def _hold_again(self, session: Descriptor, home: WorkerState) -> None:
        """Reports a pause to the new home, whenever it began."""
        with contextlib.suppress(Refused):  # it was deleted just now
            hold = (await self._store.get(session.session_id, session.tenant)).hold
            if hold is not None:
                self._fleet.clients.hold(self._pool, home, session.session_id, hold.tool, hold.expect_seconds)
