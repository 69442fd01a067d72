"""Sessions whose worker died come back on demand: all at once, they spread over the workers that are left."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from gateway_driver import Rig, step_request
from leases import lease_of
from null_script import Script
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.store.memory import MemoryStore
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.backlog import Backlogs
from roost_gateway.routing.choice import LOAD_SECONDS, StepNeed
from routing_oracle import worker_of

POOL = "test/null"
SESSIONS = 40
LOG_TOKENS = 20_000


@pytest.mark.parametrize("rates", [(2000.0, 2000.0, 2000.0), (2400.0, 2000.0, 1000.0)], ids=["equal", "unequal"])
async def test_a_burst_spreads_by_what_rebuilding_costs(rates: tuple[float, ...]) -> None:
    """Within one reading of the workers; no worker has all of its work done long before another."""
    store = MemoryStore()
    seconds: Counter[str] = Counter()
    rate_of = {f"w{number}": rate for number, rate in enumerate(rates)}
    for name, rate in rate_of.items():
        lease = lease_of(name, capacity_tokens=4_000_000, max_running=64, prefill_rate=rate)
        store.publish(POOL, lease, round(LEASE_TTL_SECONDS * 1000))
    workers = Workers(store)
    await workers.read(POOL)
    for number in range(SESSIONS):
        need = StepNeed(f"{POOL}/s{number}", "", LOG_TOKENS, new_tokens=500)
        choice = workers.choose(POOL, need, frozenset())
        assert choice is not None
        name = choice.worker.worker_id
        workers.note_reserved(POOL, name, choice.tokens, 0, need.missing_at(name))
        seconds[name] += LOG_TOKENS / rate_of[name]
    one_session = LOG_TOKENS / min(rates)
    assert seconds.keys() == rate_of.keys()
    assert max(seconds.values()) - min(seconds.values()) <= one_session + LOAD_SECONDS


async def test_forty_sessions_of_a_dead_worker_return_to_three(rig: Rig) -> None:
    home = await rig.worker("home")
    server = await rig.gateway()
    caller = rig.caller(server)
    sessions = await asyncio.gather(*(caller.open(role="coder") for _ in range(SESSIONS)))
    await asyncio.gather(*(caller.step(step_request(session)) for session in sessions))
    others = [await rig.worker(f"other-{number}", Script(tokens=2, hang_after=0)) for number in range(3)]
    home.draining = True  # as good as dead for its sessions' next steps
    await home.publish()
    await server.life.fleet.workers.read(POOL)
    for other in others:
        other.changed = others[0].changed
    steps = [rig.spawn(caller.step(step_request(session, "s2"))) for session in sessions]
    await others[0].until(lambda: sum(len(other.starts) for other in others) == SESSIONS)  # none makes room before
    placed = [len(other.starts) for other in others]
    assert min(placed) >= SESSIONS // 8, "a reading of the workers amid the burst is a little old, no more"
    for other in others:
        other.resume_output.set()
    await asyncio.gather(*steps)


def test_a_backlog_is_over_when_the_worker_can_have_computed_it() -> None:
    backlogs, worker = Backlogs(), worker_of("w", prefill_rate=1000.0)
    backlogs.add(worker, 2000, now=10.0)
    backlogs.add(worker, 1000, now=11.0)
    assert [backlogs.seconds(worker, now) for now in (11.0, 12.0, 13.0, 20.0)] == [2.0, 1.0, 0.0, 0.0]
    backlogs.add(worker, 500, now=20.0)
    assert backlogs.seconds(worker, 20.0) == 0.5
    restarted = replace(worker, lease=replace(worker.lease, boot="another"))
    assert backlogs.seconds(restarted, 20.0) == 0.0
