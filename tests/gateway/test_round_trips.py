"""How many scripts a step takes in the store (ARCHITECTURE.md, "The way of a step")."""

import asyncio
from typing import Any

import pytest

from gateway_driver import Rig, step_request
from null_script import Script
from roost.store.keys import PoolKeys
from roost.store.link import RedisLink
from roost.store.scripts import Call

BESIDE_STEPS = {"workers", "renew", "mover"}
"""What a gateway runs now and then, for all steps together."""


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the scripts that steps have run."""
    names, run = list[str](), RedisLink.script

    async def recorded(link: RedisLink, name: str, call: Call) -> Any:
        if name not in BESIDE_STEPS:
            names.append(name)
        return await run(link, name, call)

    monkeypatch.setattr(RedisLink, "script", recorded)
    return names


async def test_the_first_step_of_a_session_reserves_where_it_begins(rig: Rig, scripts: list[str]) -> None:
    worker = await rig.worker()
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    scripts.clear()
    assert (await caller.step(step_request(session))).committed is not None
    assert scripts == ["begin", "commit"]
    assert len(worker.starts) == 1


async def test_a_step_at_a_home_that_has_the_session_reserves_where_it_begins(rig: Rig, scripts: list[str]) -> None:
    worker = await rig.worker()
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    await caller.step(step_request(session))
    await worker.has_heard_of(1)
    await worker.publish()
    scripts.clear()
    await caller.step(step_request(session, "s2"))
    assert scripts == ["begin", "commit"]


async def test_an_evicted_session_is_placed_by_a_second_script_and_its_log_is_read(
    rig: Rig, scripts: list[str]
) -> None:
    worker = await rig.worker()
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    await caller.step(step_request(session))
    await worker.has_heard_of(1)
    worker.parked.clear()
    await worker.publish()
    with rig.redis.client() as client:  # as if the step had ended a while ago: what is published is believed
        client.hset(PoolKeys(session.pool).session(session.id), "updated", 0)
    scripts.clear()
    await caller.step(step_request(session, "s2"))
    assert scripts == ["begin", "reserve", "read", "read", "commit"]


async def test_a_gateway_reads_a_session_that_it_has_not_seen_once(rig: Rig, scripts: list[str]) -> None:
    await rig.worker()
    first, second = [rig.caller(await rig.gateway()) for _ in range(2)]
    session = await first.open()
    scripts.clear()
    await second.step(step_request(session))
    assert scripts == ["get", "begin", "commit"]


async def test_first_steps_of_a_burst_go_to_different_workers(rig: Rig, scripts: list[str]) -> None:
    workers = [await rig.worker(f"null-{number}", Script(hang_after=1)) for number in range(4)]
    caller = rig.caller(await rig.gateway())
    sessions = [await caller.open() for _ in workers]
    scripts.clear()
    steps = [rig.spawn(caller.step(step_request(session))) for session in sessions]
    for worker in workers:
        await worker.until(lambda worker=worker: len(worker.starts) == 1)
        worker.resume_output.set()
    await asyncio.gather(*steps)
    assert scripts.count("reserve") == 0
