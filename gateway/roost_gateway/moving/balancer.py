"""Moves sessions in pause from workers at which steps wait to those that idle, one after the other.

Of several gateways the one that has the claim to a worker's sessions relieves it, as when a worker drains.
"""

import asyncio
import logging
import time
from collections import defaultdict

from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.balance import Imbalances, Relief, next_to_move
from roost_gateway.moving.plan import rebuild_seconds
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure
from roost_gateway.moving.worker_moves import WorkerMoves
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import BALANCE, Telemetry

log = logging.getLogger(__name__)

LEFT_ALONE_SECONDS = 10.0
"""For how long a session is not tried again whose move failed, such as since a step of it came first."""
PASSED_OVER_SECONDS = 5.0
"""For how long a busy worker is passed over of which no session can move now, or which another gateway relieves, since
the descriptors of all sessions that it has cached are read for it; and an idle one that does not rebuild."""
SLACK_SECONDS = 30.0
"""How much longer than expected a rebuild may take: it gives way to all other work."""


class Balancer:
    """The moves that one gateway makes for balance."""

    def __init__(self, gateway: str, store: SessionStore, fleet: Fleet, telemetry: Telemetry) -> None:
        self._gateway, self._store, self._fleet, self._telemetry = gateway, store, fleet, telemetry
        self._imbalances = defaultdict[str, Imbalances](Imbalances)
        """By pool."""
        self._relieving: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By the start of the busy worker."""
        self._left_alone: dict[str, float] = {}
        """Sessions, and until when."""
        self._passed_over: dict[tuple[str, str], float] = {}
        """Starts of workers, and until when."""

    def workers_changed(self, pool: str) -> None:
        """Looks at a new reading of the pool's workers."""
        now = time.monotonic()
        self._passed_over = {start: until for start, until in self._passed_over.items() if until > now}
        workers = self._fleet.workers.states(pool)
        for relief in self._imbalances[pool].observe(workers, now, self._passed_over.keys()):
            if relief.busy.start not in self._relieving:
                work = asyncio.create_task(self._relieve(pool, relief), name=f"relieve {relief.busy.worker_id}")
                self._relieving[relief.busy.start] = work

    async def aclose(self) -> None:
        running = list(self._relieving.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _relieve(self, pool: str, relief: Relief) -> None:
        """Moves one session. The next reading says whether another one should follow."""
        moves = WorkerMoves(pool, relief.busy, self._gateway, self._store, self._fleet, self._telemetry)
        try:
            if not await moves.claimed(lambda: self._move_next(moves, relief)):
                self._pass_over(relief.busy)
        except StoreAwayError:
            log.info("the session store is away: worker %s is not relieved", relief.busy.worker_id)
        except Exception:
            log.exception("relieving worker %s failed", relief.busy.worker_id)
        finally:
            del self._relieving[relief.busy.start]

    async def _move_next(self, moves: WorkerMoves, relief: Relief) -> bool:
        """Returns whether there is a session that can move, whether it does or not."""
        now = time.monotonic()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        residents = [each for each in await moves.residents() if each.session_id not in self._left_alone]
        session = next_to_move(residents, relief.idle, time.time_ns() // 1_000_000)
        if session is None:
            return False
        seconds = rebuild_seconds(session, relief.idle) + SLACK_SECONDS
        self._left_alone[session.session_id] = now + LEFT_ALONE_SECONDS
        try:
            await moves.move(session, relief.idle, seconds, BALANCE)
        except (RebuildError, Refused) as error:
            if isinstance(error, RebuildError) and error.failure is not RebuildFailure.REFUSED:
                self._pass_over(relief.idle)
            log.info("session %s does not move to worker %s: %s", session.session_id, relief.idle.worker_id, error)
        return True

    def _pass_over(self, worker: WorkerState) -> None:
        self._passed_over[worker.start] = time.monotonic() + PASSED_OVER_SECONDS
