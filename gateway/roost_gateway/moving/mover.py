"""Moves the sessions of one worker that is about to drain, while it still serves them.

A session's log is computed at its new home first; then one script makes that its owner, unless a step runs or has
changed the log by then; then the old home drops it. A step that comes before goes to the old home.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping, Sequence

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_MS
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.moves import Move, Resident
from roost.store.records import Descriptor, StoreAwayError
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.plan import plan
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure, rebuild
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
"""How long one plan is followed. The next one includes sessions whose steps have ended since, and newer figures."""
PAUSE_SECONDS = 0.2
"""How long to wait for steps to end when there is nothing else to move."""


class Mover:
    """One gateway's moves from one worker."""

    def __init__(
        self, pool: str, worker: WorkerState, gateway: str, store: SessionStore, fleet: Fleet, telemetry: Telemetry
    ) -> None:
        self._pool, self._worker, self._gateway = pool, worker, gateway
        self._store, self._fleet, self._telemetry = store, fleet, telemetry
        self._deadline = time.monotonic() + worker.lease.leaving_seconds
        self._too_old: set[tuple[str, str]] = set()
        """Starts of workers that do not know the call."""
        self._refused: set[str] = set()
        """Sessions that a worker refused to rebuild."""

    async def run(self) -> None:
        """Moves what can be moved, if no other gateway does. Raises StoreAwayError."""
        if not await self._claim():
            return
        moving = asyncio.create_task(self._move_all(), name=f"move sessions of {self._worker.worker_id}")
        try:
            while not (await asyncio.wait([moving], timeout=LEASE_PERIOD_SECONDS))[0]:
                if not await self._claim():
                    log.warning("another gateway moves the sessions of worker %s now", self._worker.worker_id)
                    return
            await self._finish(moving.result())
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)

    async def _finish(self, left: int) -> None:
        await self._store.moves.finish(self._pool, self._worker.worker_id, self._gateway, LEASE_TTL_MS)
        self._telemetry.sessions_left(left)
        if left:
            log.info("%d sessions of worker %s are rebuilt on demand", left, self._worker.worker_id)

    async def _claim(self) -> bool:
        return await self._store.moves.claim(self._pool, self._worker.worker_id, self._gateway, LEASE_TTL_MS)

    @property
    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def _move_all(self) -> int:
        """Moves sessions until none is left that can be moved, or the worker takes no more steps. Returns how many are
        left."""
        while not self._stays():
            residents = await self._residents()
            planned = self._plan(residents)
            if not planned and not self._waits_for_steps(residents):
                return len(residents)
            if planned:
                await self._move_planned(planned)
            else:
                await asyncio.sleep(PAUSE_SECONDS)
        return 0

    def _stays(self) -> bool:
        """Whether the worker takes any session's steps again."""
        worker = self._fleet.workers.get(self._pool, self._worker.worker_id)
        return worker is not None and not worker.lease.stops

    async def _residents(self) -> list[Resident]:
        """The sessions whose next step would go to the worker."""
        residents = await self._store.moves.residents(self._pool, self._worker.worker_id)
        return [resident for resident in residents if self._is_at_home(resident)]

    def _is_at_home(self, resident: Resident) -> bool:
        at_home = resident.owner == self._worker.worker_id and not resident.closed and resident.log_tokens > 0
        return at_home and not self._is_rendered_again(resident)

    def _is_rendered_again(self, resident: Resident) -> bool:
        """Whether the session's log becomes another revision's before its next step."""
        pool = self._fleet.pools.known(self._pool)
        return pool is not None and pool.migrates and pool.active_revision not in ("", resident.model_revision)

    def _plan(self, residents: Sequence[Resident]) -> Mapping[str, Sequence[Resident]]:
        idle = (resident for resident in residents if not resident.busy and resident.session_id not in self._refused)
        return plan(idle, self._homes(), self._seconds_left, time.time_ns() // 1_000_000)

    def _homes(self) -> list[WorkerState]:
        workers = self._fleet.workers.states(self._pool)
        return [worker for worker in workers if not worker.lease.stops and worker.start not in self._too_old]

    def _waits_for_steps(self, residents: Sequence[Resident]) -> bool:
        """Whether a session may still be moved once its step has ended."""
        worker = self._fleet.workers.get(self._pool, self._worker.worker_id)
        if worker is None or not worker.lease.leaving or not self._homes() or self._seconds_left <= 0:
            return False
        return worker.lease.running + worker.lease.waiting > 0 or any(resident.busy for resident in residents)

    async def _move_planned(self, planned: Mapping[str, Sequence[Resident]]) -> None:
        """Moves sessions to all homes at once, to each one after the other."""
        until = min(time.monotonic() + ROUND_SECONDS, self._deadline)
        async with asyncio.TaskGroup() as homes:
            for worker_id, residents in planned.items():
                homes.create_task(self._move_to(worker_id, residents, until))

    async def _move_to(self, worker_id: str, residents: Sequence[Resident], until: float) -> None:
        for resident in residents:
            home = self._fleet.workers.get(self._pool, worker_id)
            if home is None or home.lease.stops or self._stays() or time.monotonic() >= until:
                return
            try:
                await self._move(resident, home)
            except RebuildError as error:
                log.info("worker %s does not rebuild %s: %s", worker_id, resident.session_id, error)
                if error.failure is RebuildFailure.REFUSED:
                    self._refused.add(resident.session_id)
                    continue
                if error.failure is RebuildFailure.TOO_OLD:
                    self._too_old.add(home.start)
                await asyncio.sleep(PAUSE_SECONDS)
                return
            except (Refused, StoreAwayError) as error:
                log.info("session %s is not moved: %s", resident.session_id, error)

    async def _move(self, resident: Resident, home: WorkerState) -> None:
        session = await self._store.get(resident.session_id, resident.tenant)
        if session.attempt is not None or session.owner != self._worker.worker_id:
            return
        tokens = await rebuild(session, home, self._fleet.clients, self._store, max(0.0, self._seconds_left))
        epoch = await self._store.moves.move(self._move_of(session, home))
        self._telemetry.session_moved(tokens)
        await self._fleet.clients.evict(self._pool, [self._worker], session.session_id, epoch)
        await self._hold_again(session, home)

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
