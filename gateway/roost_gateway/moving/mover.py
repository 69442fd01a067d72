"""Moves the sessions of one worker that is about to drain, while it still serves them."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.moves import Resident
from roost.store.records import StoreAwayError
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.plan import plan
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure
from roost_gateway.moving.worker_moves import WorkerMoves
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import DRAIN, Telemetry

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
        self._pool, self._worker, self._fleet, self._telemetry = pool, worker, fleet, telemetry
        self._moves = WorkerMoves(pool, worker, gateway, store, fleet, telemetry)
        self._deadline = time.monotonic() + worker.lease.leaving_seconds
        self._too_old: set[tuple[str, str]] = set()
        """Starts of workers that do not know the call."""
        self._refused: set[str] = set()
        """Sessions that a worker refused to rebuild."""

    async def run(self) -> None:
        """Moves what can be moved, if no other gateway does. Raises StoreAwayError."""
        left = await self._moves.claimed(self._move_all)
        if left is None:
            return
        await self._moves.finish()
        self._telemetry.sessions_left(left)
        if left:
            log.info("%d sessions of worker %s are rebuilt on demand", left, self._worker.worker_id)

    @property
    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def _move_all(self) -> int:
        """Moves sessions until none is left that can be moved, or the worker takes no more steps. Returns how many are
        left."""
        while not self._stays():
            residents = await self._moves.residents()
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
                await self._moves.move(resident, home, self._seconds_left, DRAIN)
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
