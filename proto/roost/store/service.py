"""How much service each tenant of a pool has had, by which waiting steps of equal class and urgency are ordered. Pure.

Service is KV held for a time: a step with p tokens of context that generates d tokens holds p tokens for d batches, and
what it has generated besides: p * d + d^2 / 2 (Justitia, arXiv 2510.17015). A tenant's *counter* adds up its service,
divided by its weight, and the tenant with the least counter goes first (VTC, Sheng et al., arXiv 2401.00588).

A step is charged when it reserves room, with an output like its tenant's of late, and the charge is corrected when it
ends. Of a tenant of which nothing waits, the next step first *lifts* the counter: to the least one of the tenants that
wait, or where none does, to the clock, the greatest counter that any tenant had when a step of it reserved. So nobody
saves up the time in which it asked for nothing, nor does a tenant pay for having used what nobody else wanted. As in
VTC, a tenant whose steps all run is lifted too: otherwise one that always runs a little would save up what it never
asked for, and every tenant that comes would be lifted to that little.

The bound: of two tenants of which steps wait all the time, in one line and of one class and urgency, what they are
given in any interval, divided by their weights, differs by at most 2 * (S + G) * C.

- C is the dearest step of any tenant, as expected or as it was, divided by its tenant's weight.
- S is the number of steps that may have reserved: up to twice what the workers run at once. Those that queue at a
  worker have been charged, whatever the order in which it serves them.
- G is the number of gateways. Each may let one step go first by a counter that has changed elsewhere, and knows better
  then. With one gateway, this is the step by which the tenant with the least counter then leads.

For what runs is corrected by at most C each, in either direction, and each of the two leads by no more than that.

`ServiceCounters` is the twin of `scripts/_service.lua`, which takes the constants from here; a property test compares
the two. The simulator uses it as it is. Times are whole ms of one clock.
"""

from dataclasses import dataclass

START_OUTPUT = 256
"""Tokens that a step of a tenant is expected to generate of which none has ended."""
DECAY = 8
"""An output counts for one part in so many of its tenant's mean."""
MOST_TENANTS = 10_000
"""Beyond these, tenants of which nothing waits are forgotten, the one that was changed longest ago first."""
MOST_COMPARED = 32
"""So many places of a line's best level are compared by their tenants' counters; the others go after these."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step will need of its tenant's share, as far as that is known when it begins."""

    weight: int = 1
    """Of its tenant."""
    prompt_tokens: int = 0
    """Estimate."""
    output_tokens: int = 0
    """Most that it may generate."""


@dataclass(frozen=True, slots=True)
class Done:
    """What an attempt that does not commit has done; nothing unless a worker accepted it."""

    prompt_tokens: int = 0
    output_tokens: int = 0


NOTHING_DONE = Done()


def weighted_service(context_tokens: int, output_tokens: int, weight: int) -> int:
    """The service of a step that generates `output_tokens` after `context_tokens`, divided by its tenant's weight."""
    return (context_tokens * output_tokens + output_tokens * output_tokens // 2) // weight


@dataclass(slots=True)
class TenantService:
    """What is known of one tenant."""

    counter: int = 0
    outputs: int = 0
    """`DECAY` times the decayed mean of its steps' outputs, in tokens; 0 before one has ended."""
    waiting: int = 0
    """Attempts that have not reserved room."""
    until_ms: int = 0
    """When the last of their leases ends: if their gateways died, the tenant waits no longer."""
    changed_ms: int = 0

    def expected(self, demand: Demand, log_tokens: int) -> int:
        """The charge of a step after `log_tokens`."""
        output = min(demand.output_tokens, self.outputs // DECAY if self.outputs else START_OUTPUT)
        return weighted_service(log_tokens + demand.prompt_tokens, output, demand.weight)

    def correct(self, charged: int, actual: int) -> None:
        """Replaces a charge by what the step has had."""
        self.counter = max(0, self.counter - charged + actual)

    def learn(self, output_tokens: int) -> None:
        self.outputs += output_tokens - self.outputs // DECAY if self.outputs else DECAY * output_tokens

    def wait(self, until_ms: int) -> None:
        """Counts one more attempt as waiting."""
        self.waiting += 1
        self.until_ms = max(self.until_ms, until_ms)

    def stop_waiting(self) -> None:
        self.waiting = max(0, self.waiting - 1)


class ServiceCounters:
    """The tenants of one pool."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantService] = {}
        self.clock = 0

    def counter(self, tenant: str) -> int:
        """0 for a tenant that is not known."""
        return self.tenants[tenant].counter if tenant in self.tenants else 0

    def find(self, tenant: str, now: int) -> TenantService:
        """The tenant as it stands. `save` it after a change."""
        service = self.tenants.get(tenant) or TenantService()
        if service.until_ms <= now:
            service.waiting = 0
        return service

    def join(self, tenant: str, now: int) -> TenantService:
        """The same for a tenant of which a step begins to wait or reserves: lifted if none waits."""
        service = self.find(tenant, now)
        if service.waiting == 0:
            service.counter = max(service.counter, self.least(now))
        return service

    def least(self, now: int) -> int:
        """The least counter of the tenants that wait; the clock when none does. Tenants whose gateways died rest from
        now on."""
        while waiting := [(other.counter, name) for name, other in self.tenants.items() if other.waiting]:
            counter, name = min(waiting)
            service = self.find(name, now)
            if service.waiting:
                return counter
            self.save(name, service, now)
        return self.clock

    def charge(self, service: TenantService, demand: Demand, log_tokens: int) -> int:
        """Charges a step that reserves. Returns the charge."""
        self.clock = max(self.clock, service.counter)
        charged = service.expected(demand, log_tokens)
        service.counter += charged
        return charged

    def save(self, tenant: str, service: TenantService, now: int) -> None:
        """Keeps a tenant after a change, and forgets others that are too many."""
        service.changed_ms = now
        self.tenants[tenant] = service
        while len(self.tenants) > MOST_TENANTS and (gone := self._first_to_forget()) is not None:
            del self.tenants[gone]

    def _first_to_forget(self) -> str | None:
        resting = [(service.changed_ms, name) for name, service in self.tenants.items() if not service.waiting]
        return min(resting)[1] if resting else None
