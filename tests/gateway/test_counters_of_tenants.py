"""What a gateway does with the counters of tenants that the store answers."""

from dataclasses import replace

from roost.store.entry import Reserved
from roost.store.records import Reservation
from waiting_steps import CAPACITY, POOL, Ledger, Lines


class Counters(Ledger):
    """It knows more of tenants than the gateway does, and lets nobody in whose tenant has not had the least."""

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[str, int] = {}

    async def reserve(self, reservation: Reservation) -> Reserved:
        counter = self.counters[reservation.session_id]
        answer = await super().reserve(reservation) if counter == min(self.counters.values()) else Reserved(False)
        return replace(answer, counter=counter)


async def test_another_step_is_the_first_once_the_store_says_what_its_tenant_has_had() -> None:
    lines = Lines(Counters())
    await lines.fleet.read(0)
    lines.ledger.counters = {"rich": 1, "poor": 2}
    for tenant in ("rich", "poor"):
        lines.placement._pool_queue(POOL).queue.step_came(tenant, lines.ledger.counters[tenant])
        await lines.wait(tenant, "rev-1", tenant=tenant)
    assert [session for session, _ in lines.ledger.asked] == ["rich"]
    lines.ledger.counters["rich"] = 9  # in other gateways
    lines.ledger.end_a_step("rev-1", held=CAPACITY - 200)
    await lines.settle()
    assert lines.ledger.released == ["rich"], "it is no longer the first, and gives its place up"
    assert lines.placed == ["poor"]
    await lines.aclose()
