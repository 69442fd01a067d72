"""Sessions of a worker that is about to drain get new homes, through real gateways and scripted workers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from gateway_driver import LIMIT_SECONDS, POOL, Caller, Rig, publish_pool, step_request
from moving_workers import LeavingWorker, RebuildingWorker
from null_script import Script
from roost.contract.reasons import Reason
from roost.store.keys import MOVES_DONE, PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost_gateway.front.server import GatewayServer
from roost_gateway.telemetry import Telemetry

KEYS = PoolKeys(POOL)


@dataclass
class MovingPool:
    """Two workers, of which one has sessions, and a gateway."""

    rig: Rig
    old: RebuildingWorker
    gateway: GatewayServer
    caller: Caller
    metrics: InMemoryMetricReader
    sessions: list[pb.Session] = field(default_factory=list)

    async def open(self, count: int) -> None:
        """Opens sessions, each with a step at the old worker, before any other worker is there."""
        self.sessions = [await self.caller.open(role="coder") for _ in range(count)]
        await asyncio.gather(*(self.step(session, "s1") for session in self.sessions))
        await self.old.has_heard_of(count)
        await self.old.publish()

    async def worker(self, worker_id: str, **fields: Any) -> RebuildingWorker:
        return await self.rig.run(RebuildingWorker(self.rig.redis.url, POOL, worker_id, **fields))

    async def step(self, session: pb.Session, step_id: str) -> pb.StepCommitted:
        committed = (await self.caller.step(step_request(session, step_id))).committed
        assert committed is not None
        return committed

    def owners(self) -> list[str]:
        with self.rig.redis.client() as client:
            return [client.hget(KEYS.session(session.id), "owner").decode() for session in self.sessions]

    def mover(self) -> str:
        with self.rig.redis.client() as client:
            return (client.get(KEYS.mover("old")) or b"").decode()

    async def have_left(self) -> None:
        await until(lambda: "old" not in self.owners())

    def count(self, name: str) -> int:
        """Sum of a counter of the gateway's."""
        data = self.metrics.get_metrics_data()
        metrics = [
            metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
        ]
        return sum(point.value for metric in metrics if metric.name == name for point in metric.data.data_points)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not holds():  # noqa: ASYNC110  gateways do it, twice a second
            await asyncio.sleep(0.02)


@pytest.fixture
async def pool(rig: Rig) -> MovingPool:
    old, metrics = await rig.run(RebuildingWorker(rig.redis.url, POOL, "old")), InMemoryMetricReader()
    gateway = await rig.gateway(Telemetry("g", reader=metrics))
    return MovingPool(rig, old, gateway, rig.caller(gateway), metrics)


async def test_a_sessions_next_step_goes_to_its_new_home_and_computes_nothing_again(pool: MovingPool) -> None:
    await pool.open(3)
    new = await pool.worker("new")
    await pool.old.leave()
    await pool.have_left()
    committed = [await pool.step(session, "s2") for session in pool.sessions]
    assert {step.usage.reconstructed_tokens for step in committed} == {0}
    assert sorted(start.session.session_id for start in new.starts) == sorted(session.id for session in pool.sessions)
    evicted = {request.session_id: request.epoch for request in pool.old.evictions}
    assert evicted.keys() == {session.id for session in pool.sessions}
    assert all(request.epoch < evicted[request.session.session_id] for request in new.rebuilds)
    await until(lambda: pool.mover() == MOVES_DONE)
    assert pool.count("roost.sessions.moved") == 3
    assert pool.count("roost.sessions.left") == 0


async def test_a_hold_goes_along(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    hold = pb.HoldSessionRequest(session_id=pool.sessions[0].id, tool="pytest", expect_seconds=90.0)
    await pool.caller.stub.HoldSession(hold)
    await pool.old.leave()
    await until(lambda: bool(new.holds))
    assert (new.holds[0].session_id, new.holds[0].tool, new.holds[0].expect_seconds) == (
        hold.session_id,
        "pytest",
        90.0,
    )


async def test_a_step_that_comes_during_a_rebuild_is_served_by_the_old_home(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    new.may_finish.clear()
    await pool.old.leave()
    await new.until(lambda: new.rebuilds)
    committed = await pool.step(pool.sessions[0], "s2")
    assert committed.usage.reconstructed_tokens == 0
    assert pool.owners() == ["old"]
    new.may_finish.set()
    await pool.have_left()
    assert len(new.rebuilds) == 2, "the log has grown since the first"
    assert (await pool.step(pool.sessions[0], "s3")).usage.reconstructed_tokens == 0


async def test_no_session_is_moved_under_a_step(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    pool.old.script.hang_after = 2
    running = asyncio.create_task(pool.step(pool.sessions[0], "s2"))
    await pool.old.until(lambda: len(pool.old.starts) == 2)
    await pool.old.leave()
    await until(lambda: pool.mover() not in ("", MOVES_DONE))
    assert new.rebuilds == []
    pool.old.resume_output.set()
    await running
    await pool.have_left()


async def test_new_sessions_do_not_go_to_a_worker_that_leaves(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    new.may_finish.clear()
    await pool.old.leave()
    await new.until(lambda: new.rebuilds)
    session = await pool.caller.open(role="coder")
    await pool.step(session, "s1")
    assert [start.session.session_id for start in new.starts] == [session.id]


async def test_several_gateways_rebuild_each_session_once(pool: MovingPool) -> None:
    await pool.open(6)
    await pool.rig.gateway()
    await pool.rig.gateway()
    new, newer = await pool.worker("new"), await pool.worker("newer")
    await pool.old.leave()
    await pool.have_left()
    rebuilt = [start.session.session_id for worker in (new, newer) for start in worker.rebuilds]
    assert len(rebuilt) == len(set(rebuilt)) == 6
    assert {new.most_at_once, newer.most_at_once} == {1}, "a home computes one session after the other"


async def stays(pool: MovingPool) -> None:
    """The gateway says that it is done, and the sessions are where they were."""
    await until(lambda: pool.mover() == MOVES_DONE)
    assert pool.owners() == ["old"] * len(pool.sessions)
    await until(lambda: pool.count("roost.sessions.left") > 0)


async def test_sessions_stay_when_the_others_are_older_than_the_call(pool: MovingPool) -> None:
    await pool.open(2)
    await pool.rig.run(LeavingWorker(pool.rig.redis.url, POOL, "older"))
    await pool.old.leave()
    await stays(pool)


async def test_sessions_stay_when_there_is_no_other_worker(pool: MovingPool) -> None:
    await pool.open(2)
    await pool.old.leave()
    await stays(pool)


async def test_sessions_stay_when_no_home_has_room(pool: MovingPool) -> None:
    await pool.open(1)
    await pool.worker("small", script=Script(capacity_tokens=5))
    await pool.old.leave()
    await stays(pool)


async def test_sessions_stay_when_there_is_no_time(pool: MovingPool) -> None:
    await pool.open(1)
    await pool.worker("new")
    await pool.old.leave(0.001)
    await stays(pool)


async def test_a_session_that_a_home_refuses_stays(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    new.refuse_rebuilds = Reason.HEAD_MISMATCH
    await pool.old.leave()
    await stays(pool)
    assert len(new.rebuilds) == 1


async def test_a_home_that_rebuilds_others_is_asked_again(pool: MovingPool) -> None:
    await pool.open(1)
    new = await pool.worker("new")
    new.refuse_rebuilds = Reason.QUEUE_FULL
    await pool.old.leave()
    await new.until(lambda: len(new.rebuilds) == 2)
    new.refuse_rebuilds = None
    await pool.have_left()


async def test_sessions_whose_logs_another_revision_will_render_stay(pool: MovingPool) -> None:
    await pool.open(1)
    publish_pool(pool.rig.redis, activeRevision="rev-2")
    await pool.worker("new", revision="rev-2")
    await pool.worker("same")
    await pool.gateway.life.fleet.read(0)
    await pool.old.leave()
    await until(lambda: pool.mover() == MOVES_DONE)
    assert pool.owners() == ["old"]


async def test_a_worker_that_stays_after_all_keeps_what_it_has(pool: MovingPool) -> None:
    await pool.open(2)
    new = await pool.worker("new")
    new.may_finish.clear()
    await pool.old.leave()
    await new.until(lambda: new.rebuilds)
    await pool.old.stay()
    await pool.gateway.life.fleet.workers.read(POOL)
    new.may_finish.set()
    await until(lambda: pool.mover() == MOVES_DONE)
    assert sorted(pool.owners()) == ["new", "old"], "the session that was being rebuilt is moved"
    assert len(new.rebuilds) == 1


async def test_another_gateway_goes_on_when_the_one_that_moves_dies(rig: Rig, tmp_path: Path) -> None:
    old, new = [await rig.run(RebuildingWorker(rig.redis.url, POOL, name)) for name in ("old", "new")]
    new.draining = True
    await new.publish()
    first = await rig.process(tmp_path)
    caller = rig.caller(first)
    session = await caller.open(role="coder")
    await caller.step(step_request(session))
    await old.has_heard_of(1)
    new.draining = False
    new.may_finish.clear()
    await new.publish()
    await old.publish()
    await old.leave()
    await new.until(lambda: new.rebuilds)
    caller = rig.caller(await rig.gateway())
    first.kill()
    await new.until(lambda: len(new.rebuilds) == 2)
    new.may_finish.set()
    await old.until(lambda: old.evictions)
    committed = (await caller.step(step_request(session, "s2"))).committed
    assert committed is not None
    assert committed.usage.reconstructed_tokens == 0
    assert len(new.starts) == 1
