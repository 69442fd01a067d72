"""Retention policies by name: those that a worker has, and the offline optimum. Pure."""

from roost_gateway.simulator.oracle import Belady
from roost_gateway.simulator.simulation import PolicyFactory
from roost_worker.engine.retention import DEFAULT_POLICY, POLICIES

ORACLE = "Belady"
NAMES = (*POLICIES, ORACLE)


def policy_factory(name: str = DEFAULT_POLICY) -> PolicyFactory:
    """Return what makes a worker's policy. Raise ValueError when there is no such policy."""
    if name == ORACLE:
        return Belady
    if name not in POLICIES:
        raise ValueError(f"no retention policy {name}; there are {', '.join(NAMES)}")
    make = POLICIES[name]
    return lambda _returns: make()
