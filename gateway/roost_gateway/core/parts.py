"""What the calls of one gateway share."""

from dataclasses import dataclass, field

from roost.store.interface import SessionStore
from roost_gateway.config import GatewayConfig
from roost_gateway.core.pressure import Pressure
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.facts import FactsCache
from roost_gateway.step.steps import Steps
from roost_gateway.telemetry import Telemetry


@dataclass(slots=True)
class Parts:
    """One gateway's parts."""

    config: GatewayConfig
    store: SessionStore
    fleet: Fleet
    steps: Steps
    facts: FactsCache
    telemetry: Telemetry
    pressure: Pressure = field(default_factory=Pressure)
