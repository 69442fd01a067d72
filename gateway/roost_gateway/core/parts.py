"""What the steps of one gateway share."""

from dataclasses import dataclass, field

from roost.store.interface import SessionStore
from roost_gateway.config import GatewayConfig
from roost_gateway.core.pressure import Pressure
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.fleet.workers import Workers
from roost_gateway.step.attempts import Attempts
from roost_gateway.step.background import Background
from roost_gateway.step.facts import FactsCache
from roost_gateway.step.placement import Placement
from roost_gateway.telemetry import Telemetry


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
