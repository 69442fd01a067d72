"""What a gateway does with the counters of tenants that the store answers, and what its steps are charged with."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_driver import LIMIT_SECONDS, Rig, publish_pool, step_request
from gateway_driver import POOL as POOL_OF_RIG
from null_script import Script
from roost.contract.api_keys import hash_api_key
from roost.store.entry import Reserved
from roost.store.records import Reservation
from roost.store.service import weighted_service
from store_driver import reservations, tenant_services
from waiting_steps import CAPACITY, POOL, Ledger, Lines

ROOM_FOR_ONE = 600
TENANTS = ("a", "b")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Each tenant's key is its name."""
    file = tmp_path / "keys.yaml"
    entries = [f"{{id: {name}, sha256: {hash_api_key(name)}, tenant: {name}, pools: ['*']}}" for name in TENANTS]
    file.write_text(f"keys: [{', '.join(entries)}]")
    return file


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


async def test_a_tenant_with_one_step_goes_before_the_second_of_another_in_any_gateway(rig: Rig, keys: Path) -> None:
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE))
    large, small = [rig.caller(await rig.gateway(api_keys_file=keys), name) for name in TENANTS]
    sessions = [await large.open() for _ in range(3)] + [await small.open()]
    for session in sessions:
        await (small if session is sessions[-1] else large).step(step_request(session, "first"))
    worker.script.hang_after = 1
    running = rig.spawn(large.step(step_request(sessions[0], "running")))
    await worker.until(lambda: len(worker.starts) == 5)
    waiting = [await rig.waiting(large, step_request(session, "next")) for session in sessions[1:3]]
    waiting.append(await rig.waiting(small, step_request(sessions[3], "next")))
    worker.script.hang_after = None
    worker.resume_output.set()
    await asyncio.gather(running, *waiting)
    served = [start.session.session_id for start in worker.starts[5:]]
    assert served.index(sessions[3].id) < served.index(sessions[2].id)


async def test_a_step_is_charged_with_its_tenants_weight(rig: Rig, keys: Path) -> None:
    publish_pool(rig.redis, tenants=[{"name": "a", "weight": 3}])
    await rig.worker()
    caller = rig.caller(await rig.gateway(api_keys_file=keys), "a")
    log = await caller.step(step_request(await caller.open()))
    assert log.committed is not None
    usage = log.committed.usage
    with rig.redis.client() as client:
        counter = tenant_services(client, POOL_OF_RIG)["a"][0]
    assert counter == weighted_service(usage.prompt_tokens, usage.output_tokens, 3)


async def test_a_step_that_is_cut_off_costs_what_its_worker_has_computed(rig: Rig, keys: Path) -> None:
    worker = await rig.worker(script=Script(hang_after=2))
    gateway = await rig.gateway(api_keys_file=keys)
    caller = rig.caller(gateway, "a")
    session = await caller.open()
    step = caller.call_step(step_request(session))
    async for response in step:
        if response.WhichOneof("event") == "delta":
            break
    (attempt,) = worker.attempts.values()
    step.cancel()
    await worker.until(lambda: bool(worker.cancels))
    with rig.redis.client() as client:
        async with asyncio.timeout(LIMIT_SECONDS):
            while reservations(client, POOL_OF_RIG):
                await caller.get(session.id)  # each question is a call, which lets the gateway go on
        counter = tenant_services(client, POOL_OF_RIG)["a"][0]
    assert counter in [weighted_service(len(attempt.prompt), tokens, 1) for tokens in (1, 2)]
