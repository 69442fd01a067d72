"""Retention policies by name: those that a worker has, those that others have published, and the optimum. Pure."""

from collections.abc import Callable, Mapping

from roost_gateway.simulator.oracle import Belady
from roost_gateway.simulator.published import (
    IdlestFirst,
    PauseByDemand,
    ShortestFirst,
    StaticTtl,
    TailOptimizedLru,
    ToolTtl,
)
from roost_gateway.simulator.simulation import PolicyFactory
from roost_gateway.simulator.worker import WorkerSettings
from roost_worker.engine.policies import DEFAULT_POLICY, POLICIES
from roost_worker.engine.retention import RetentionPolicy

ORACLE = "Belady"
TAIL_UNCACHED_TOKENS = 2_000
"""What T-LRU leaves uncached: of 2,000, 8,000 and 32,000 what recomputes the fewest seconds on the tuning half."""

PUBLISHED: Mapping[str, Callable[[WorkerSettings], RetentionPolicy]] = {
    "TTL1m": lambda _: StaticTtl(60.0),
    "TTL5m": lambda _: StaticTtl(300.0),
    "TLRU": lambda _: TailOptimizedLru(TAIL_UNCACHED_TOKENS),
    "ShortestFirst": lambda _: ShortestFirst(),
    "Continuum": lambda settings: ToolTtl(settings.costs),
    "ThunderAgent": lambda settings: PauseByDemand(settings.kv_tokens),
    "MORI": lambda _: IdlestFirst(),
}
NAMES = (*POLICIES, *PUBLISHED, ORACLE)


def policy_factory(settings: WorkerSettings, name: str = DEFAULT_POLICY) -> PolicyFactory:
    """Return what makes the policy of a worker with these settings. Raise ValueError when there is no such policy."""
    if name == ORACLE:
        return Belady
    if name in PUBLISHED:
        published = PUBLISHED[name]
        return lambda _returns: published(settings)
    if name not in POLICIES:
        raise ValueError(f"no retention policy {name}; there are {', '.join(NAMES)}")
    make = POLICIES[name]
    return lambda _returns: make(settings.costs.pair_cost)
