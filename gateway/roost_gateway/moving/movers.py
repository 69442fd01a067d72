"""Begins the moves of sessions: from each worker that is about to drain, and from those that others should relieve."""

import asyncio
import logging
import secrets

from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.balancer import Balancer
from roost_gateway.moving.mover import Mover
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)


class Movers:
    """The movers of one gateway. Of several gateways one moves a worker's sessions, as the store decides."""

    def __init__(self, store: SessionStore, fleet: Fleet, telemetry: Telemetry) -> None:
        self._store, self._fleet, self._telemetry = store, fleet, telemetry
        self._gateway = secrets.token_hex(16)
        self._balancer = Balancer(self._gateway, store, fleet, telemetry)
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By the start of the worker that is left."""

    def workers_changed(self, pool: str) -> None:
        """Looks at a new reading of the pool's workers."""
        for worker in self._fleet.workers.states(pool):
            if worker.lease.leaving and worker.start not in self._running:
                task = asyncio.create_task(self._move(pool, worker), name=f"leave {worker.worker_id}")
                self._running[worker.start] = task
        self._balancer.workers_changed(pool)

    async def aclose(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._balancer.aclose()

    async def _move(self, pool: str, worker: WorkerState) -> None:
        try:
            await Mover(pool, worker, self._gateway, self._store, self._fleet, self._telemetry).run()
        except StoreAwayError:
            log.warning("the session store is away: sessions of worker %s are not moved", worker.worker_id)
        except Exception:
            log.exception("moving the sessions of worker %s failed; trying again", worker.worker_id)
        finally:
            del self._running[worker.start]
