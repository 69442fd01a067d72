"""Which tenant goes first of those whose steps wait in one class: production's counters, and what they are compared to.

Pure. Times are seconds of the simulation's clock.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from roost.contract.pool_document import DEFAULT_WEIGHT
from roost.store.service import Demand, ServiceCounters, weighted_service
from roost_gateway.simulator.job import Job

_NEVER_MS = 2**53
_MOST_OUTPUT = 2**30
"""A step may generate as much as it likes, so that it is expected to generate what others have."""


class Fairness(Protocol):
    def counter(self, tenant: str) -> int:
        """Return what orders the tenants, the least first."""
        ...

    def comes(self, job: Job, now: float) -> None:
        """Note that a job asks for a worker."""
        ...

    def reserves(self, job: Job, now: float) -> None:
        """Note that a job that has come gets one."""
        ...

    def leaves(self, job: Job, now: float) -> None:
        """Note that a job that has come gets none."""
        ...

    def ends(self, job: Job, now: float) -> None:
        """Note that a job has run."""
        ...


class VirtualTime:
    """The counters of `roost.store.service`, in which the store's scripts keep them."""

    def __init__(self, weights: Mapping[str, int] | None = None) -> None:
        self.counters = ServiceCounters()
        self._weights = weights or {}

    def counter(self, tenant: str) -> int:
        return self.counters.counter(tenant)

    def comes(self, job: Job, now: float) -> None:
        service = self.counters.join(job.tenant, _ms(now))
        service.wait(_NEVER_MS)
        self.counters.save(job.tenant, service, _ms(now))

    def reserves(self, job: Job, now: float) -> None:
        service = self.counters.find(job.tenant, _ms(now))
        service.stop_waiting()
        demand = Demand(self._weight(job), job.prompt_tokens, _MOST_OUTPUT)
        job.charged = self.counters.charge(service, demand, log_tokens=0)
        self.counters.save(job.tenant, service, _ms(now))

    def leaves(self, job: Job, now: float) -> None:
        service = self.counters.find(job.tenant, _ms(now))
        service.stop_waiting()
        self.counters.save(job.tenant, service, _ms(now))

    def ends(self, job: Job, now: float) -> None:
        service = self.counters.find(job.tenant, _ms(now))
        service.correct(job.charged, weighted_service(job.prompt_tokens, job.turn.output_tokens, self._weight(job)))
        service.learn(job.turn.output_tokens)
        self.counters.save(job.tenant, service, _ms(now))

    def _weight(self, job: Job) -> int:
        return self._weights.get(job.tenant, DEFAULT_WEIGHT)


class FewestRunning:
    """The tenant with the fewest running steps goes first, then the one served longest ago, whatever steps cost."""

    _SERVICES = 2**40

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._services = 0

    def counter(self, tenant: str) -> int:
        return self._running[tenant] * self._SERVICES + self._served[tenant]

    def comes(self, job: Job, now: float) -> None: ...

    def reserves(self, job: Job, now: float) -> None:
        self._services += 1
        self._running[job.tenant] += 1
        self._served[job.tenant] = self._services

    def leaves(self, job: Job, now: float) -> None: ...

    def ends(self, job: Job, now: float) -> None:
        self._running[job.tenant] -= 1


class Arrival:
    """First come first served, whose tenant a step may be."""

    def counter(self, tenant: str) -> int:
        return 0

    def comes(self, job: Job, now: float) -> None: ...

    def reserves(self, job: Job, now: float) -> None: ...

    def leaves(self, job: Job, now: float) -> None: ...

    def ends(self, job: Job, now: float) -> None: ...


FAIRNESS: Mapping[str, Callable[[], Fairness]] = {
    "virtual-time": VirtualTime,
    "fewest-running": FewestRunning,
    "arrival": Arrival,
}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
