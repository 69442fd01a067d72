"""Reports pauses to the homes of sessions, and has these rebuild what they evict before the sessions are expected back.

The gateway that a client asks for a hold remembers it, so that no two gateways rebuild a session. When that gateway
ends, its sessions are rebuilt on demand. A worker rebuilds while it has nothing else to do, one session at a time and
each once in a pause; while it has something to do it refuses. A session for which it has no room lets others go first.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence

from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import Descriptor, StoreAwayError
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.paused import PausedSession, PausedSessions, has_time
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure, rebuild
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.steps import Steps

log = logging.getLogger(__name__)


class Pauses:
    """The pauses that clients announced at one gateway."""

    def __init__(self, store: SessionStore, fleet: Fleet, steps: Steps) -> None:
        self._store, self._fleet, self._steps = store, fleet, steps
        self._paused = defaultdict[str, PausedSessions](PausedSessions)
        """By pool."""
        self._rebuilding: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By the start of the worker."""

    def begin(self, session: Descriptor) -> None:
        """Takes a session that is on hold now."""
        home, hold = self._fleet.workers.get(session.pool, session.owner), session.hold
        if home is None or hold is None:
            return
        self._fleet.clients.hold(session.pool, home, session.session_id, hold.tool, hold.expect_seconds)
        if hold.expect_seconds and self._rebuilds_ahead(session.pool):
            self._paused[session.pool].add(
                PausedSession(
                    session.session_id, session.tenant, session.owner, session.head.length, hold, time.monotonic()
                )
            )

    def workers_changed(self, pool: str) -> None:
        """Looks at a new reading of the pool's workers."""
        if not self._paused.get(pool) or not self._rebuilds_ahead(pool) or self._steps.any_waits(pool):
            return
        workers = self._fleet.workers.states(pool)
        idle = {home.worker_id: home for home in workers if has_time(home) and home.start not in self._rebuilding}
        for worker_id, expected in self._paused[pool].expected(idle.values(), time.monotonic()).items():
            home, name = idle[worker_id], f"rebuild ahead at {worker_id}"
            self._rebuilding[home.start] = asyncio.create_task(self._use_time(pool, home, expected), name=name)

    async def aclose(self) -> None:
        running = list(self._rebuilding.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _rebuilds_ahead(self, pool: str) -> bool:
        document = self._fleet.pools.known(pool)
        return document is not None and document.rebuilds_ahead

    async def _use_time(self, pool: str, home: WorkerState, expected: Sequence[PausedSession]) -> None:
        try:
            await self._rebuild_first(pool, home, expected)
        except StoreAwayError:
            log.info("the session store is away: worker %s rebuilds nothing ahead", home.worker_id)
        except Exception:
            log.exception("rebuilding ahead at worker %s failed", home.worker_id)
        finally:
            del self._rebuilding[home.start]

    async def _rebuild_first(self, pool: str, home: WorkerState, expected: Sequence[PausedSession]) -> None:
        """Has a home rebuild the session that is expected back first, of those that have lost KV there."""
        names = [paused.session_id for paused in expected]
        cached = await self._store.residency(pool, [home.worker_id], names)
        paused = self._paused[pool].first_to_rebuild(expected, cached, home, time.monotonic())
        if paused is None:
            return
        if await self._rebuild(paused, home):
            self._paused[pool].pass_over(paused, time.monotonic())
        else:
            self._paused[pool].discard(paused)

    async def _rebuild(self, paused: PausedSession, home: WorkerState) -> bool:
        """Rebuilds a session, if it still pauses. Returns whether to try again."""
        try:
            session = await self._store.get(paused.session_id, paused.tenant)
            if session.hold != paused.hold or session.owner != home.worker_id or session.attempt is not None:
                return False
            now = time.monotonic()
            clients, seconds_left = self._fleet.clients, max(0.0, paused.end - now)
            tokens = await rebuild(session, home, clients, self._store, seconds_left, paused_seconds=now - paused.begin)
        except Refused:  # the session is gone
            return False
        except RebuildError as error:
            log.info("worker %s does not rebuild %s ahead: %s", home.worker_id, paused.session_id, error)
            return error.failure is RebuildFailure.NOT_NOW
        log.info("worker %s rebuilt %d tokens of %s ahead", home.worker_id, tokens, paused.session_id)
        return False
