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
from roost_gateway.moving.rebuild import RebuildError
from roost_gateway.moving.worker_moves import WorkerMoves
from roost_gateway.telemetry import BALANCE, Telemetry

log = logging.getLogger(__name__)

LEFT_ALONE_SECONDS = 10.0
"""For how long a session is not tried again whose move failed, such as since a step of it came first."""
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

    def workers_changed(self, pool: str) -> None:
        """Looks at a new reading of the pool's workers."""
        for relief in self._imbalances[pool].observe(self._fleet.workers.states(pool), time.monotonic()):
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
            await moves.claimed(lambda: self._move_next(moves, relief))
        except StoreAwayError:
            log.info("the session store is away: worker %s is not relieved", relief.busy.worker_id)
        except Exception:
            log.exception("relieving worker %s failed", relief.busy.worker_id)
        finally:
            del self._relieving[relief.busy.start]

    async def _move_next(self, moves: WorkerMoves, relief: Relief) -> None:
        now = time.monotonic()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        residents = [each for each in await moves.residents() if each.session_id not in self._left_alone]
        session = next_to_move(residents, relief.idle, time.time_ns() // 1_000_000)
        if session is None:
            return
        seconds = rebuild_seconds(session, relief.idle) + SLACK_SECONDS
        self._left_alone[session.session_id] = now + LEFT_ALONE_SECONDS
        try:
            await moves.move(session, relief.idle, seconds, BALANCE)
        except (RebuildError, Refused) as error:
            log.info("session %s does not move to worker %s: %s", session.session_id, relief.idle.worker_id, error)
