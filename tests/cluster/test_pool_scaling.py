"""`kubectl scale` with live sessions: up, a death among two workers, and down by the cheapest worker."""

import asyncio

import pytest

from roost_pool.manifests import NAME
from roost_pool.traffic import MEDIUM, Traffic
from roost_pool.waiting import until
from roost_pool.world import START_SECONDS, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


async def test_scaled_up_with_live_sessions(world: World, traffic: Traffic) -> None:
    (before,) = await world.pods("worker")
    async with traffic.flowing():
        await world.kubectl("scale", f"ap/{NAME}", "--replicas=2")
        await world.ready()
    names = {pod["metadata"]["name"] for pod in await world.pods("worker")}
    assert len(names) == 2
    assert before["metadata"]["name"] in names, "the worker that was there stays"
    status = (await world.get(f"agentpool/{NAME}"))["status"]
    assert status["workers"] == {"desired": 2, "ready": 2, "replicas": 2}
    assert len((await world.kubectl("get", "pods", "--output=name", f"--selector={status['selector']}")).split()) == 2


async def test_a_stream_continues_at_the_other_worker(world: World, traffic: Traffic) -> None:
    async with traffic.flowing():
        talk = await traffic.open()
        running = await talk.tell_a_story()
        first = talk.workers[-1]
        other = {worker.worker_id for worker in await world.workers()} - {first}
        await world.kill(await world.worker_pod(first))
        receipt = await running
        assert receipt.failovers_worker == 1
        assert talk.workers[-1] in other
        assert talk.restarts == 0
    await world.ready()
    assert len(await world.pods("worker")) == 2


async def test_scaled_down_by_the_cheapest_worker(world: World, traffic: Traffic) -> None:
    talks = [await traffic.open() for _ in range(4)]

    async def unequal() -> bool:
        """Whether both workers hold sessions, and one clearly more."""
        await asyncio.gather(*(talk.say("More, please.") for talk in talks))
        few, many = sorted(worker.tokens for worker in await world.workers())
        if 2 * few >= many or not few:
            talks.append(await traffic.open())
        return bool(few and 2 * few < many)

    await until("workers to hold unequal caches", unequal, 120)
    cheap, dear = sorted(await world.workers(), key=lambda worker: worker.tokens)
    survivor = await world.worker_pod(dear.worker_id)
    moving = [talk for talk in talks if talk.workers[-1] == cheap.worker_id]
    running = [asyncio.create_task(talk.say("A longer answer, please.", MEDIUM)) for talk in moving]
    await asyncio.gather(*(talk.streaming() for talk in moving))
    await world.kubectl("scale", f"ap/{NAME}", "--replicas=1")

    async def one_is_left() -> bool:
        return [pod["metadata"]["name"] for pod in await world.pods("worker")] == [survivor["metadata"]["name"]]

    await until("the cheap worker to go", one_is_left, START_SECONDS)
    for receipt in await asyncio.gather(*running):
        assert receipt.failovers_worker == 0, "the drain lets steps end where they run"
    await asyncio.gather(*(talk.say("Go on.") for talk in talks))
    assert {talk.workers[-1] for talk in talks} == {dear.worker_id}
    await world.ready()
