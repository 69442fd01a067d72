"""What the calls of one gateway share."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost_gateway.admission.estimate import SessionFacts, facts_of
from roost_gateway.config import GatewayConfig
from roost_gateway.core.pressure import Pressure
from roost_gateway.errors import as_refused
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.fleet.workers import Workers
from roost_gateway.step.attempts import Attempts
from roost_gateway.step.placement import Placement
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

_MAX_FACTS = 100_000


class Background:
    """Work that outlives its call: what is owed to worker and store when a client goes."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.adopt(asyncio.create_task(work))

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Keeps a task and logs its failure."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def finish(self, seconds: float) -> None:
        """Waits for everything at most so long, then cancels the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            foreseen = as_refused(error) is not None
            log.warning("what was left of a step failed: %s", error, exc_info=None if foreseen else error)


class FactsCache:
    """Facts of the sessions seen last."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._facts: dict[tuple[str, str], SessionFacts] = {}

    async def get(self, session_id: str, tenant: str) -> SessionFacts:
        """Raises Refused: SESSION_NOT_FOUND; StoreUnavailableError."""
        found = self._facts.get((session_id, tenant))
        return found or self.put(await self._store.get(session_id, tenant))

    def continues(self, session_id: str, tenant: str) -> None:
        """A step of the session was committed."""
        facts = self._facts.get((session_id, tenant))
        if facts is not None and not facts.continues:
            self._facts[session_id, tenant] = replace(facts, continues=True)

    def put(self, descriptor: Descriptor) -> SessionFacts:
        while len(self._facts) >= _MAX_FACTS:
            del self._facts[next(iter(self._facts))]
        facts = self._facts[descriptor.session_id, descriptor.tenant] = facts_of(descriptor)
        return facts


@dataclass(slots=True)
class Parts:
    """One gateway's parts. `closing` is set when it stops: steps cut off from then on are left as orphans, so that
    another gateway resumes them."""

    config: GatewayConfig
    store: SessionStore
    workers: Workers
    clients: WorkerClients
    attempts: Attempts
    placement: Placement
    facts: FactsCache
    telemetry: Telemetry
    pressure: Pressure = field(default_factory=Pressure)
    background: Background = field(default_factory=Background)
    closing: bool = False
