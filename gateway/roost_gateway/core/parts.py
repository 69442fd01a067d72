"""What the calls of one gateway share."""

from dataclasses import dataclass, field, replace

from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost_gateway.admission.estimate import SessionFacts, facts_of
from roost_gateway.background import Background
from roost_gateway.config import GatewayConfig
from roost_gateway.core.pressure import Pressure
from roost_gateway.fleet.pools import Pools
from roost_gateway.fleet.watch import FleetWatch
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.fleet.workers import Workers
from roost_gateway.step.placement import Placement
from roost_gateway.step.renewal import Renewal
from roost_gateway.step.steps import Steps
from roost_gateway.telemetry import Telemetry

_MAX_FACTS = 100_000


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
    """One gateway's parts."""

    config: GatewayConfig
    store: SessionStore
    pools: Pools
    workers: Workers
    watch: FleetWatch
    clients: WorkerClients
    renewal: Renewal
    placement: Placement
    steps: Steps
    facts: FactsCache
    telemetry: Telemetry
    background: Background
    pressure: Pressure = field(default_factory=Pressure)
