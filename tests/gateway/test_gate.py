"""Working-set admission in a gateway: who is held, for how long, and what its client is told."""

import asyncio
from typing import Any

import grpc
import pytest

from gateway_driver import POOL, Caller, Rig, fault, publish_pool, step_request
from null_script import Script
from roost.contract.reasons import Reason
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from store_driver import redis_ms

ROOM_FOR_ONE = 1000
ROOM_FOR_TWO = 1100
"""Two steps have room at the worker; the working set may need four fifths of it, so that the second is held."""
ROLES = ({"name": "coder"}, {"name": "batch", "onHold": "Refuse"})


def publish(rig: Rig, hold_seconds: float, **changes: Any) -> None:
    admission = {"queueLimit": 9, "queueTimeoutSeconds": 30, "workingSet": "Enforced", "maxHoldSeconds": hold_seconds}
    publish_pool(rig.redis, admission=admission, **changes)


async def _busy(rig: Rig) -> tuple[Any, Caller, pb.Session]:
    """A worker whose KV a running step's session nearly fills."""
    worker = await rig.worker(script=Script(hang_after=1, capacity_tokens=ROOM_FOR_TWO))
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    rig.spawn(caller.step(step_request(session)))
    await worker.until(lambda: worker.starts)
    return worker, caller, session


async def test_a_step_of_a_new_session_is_held_until_a_live_one_needs_less(rig: Rig) -> None:
    publish(rig, 60.0)
    worker, caller, _ = await _busy(rig)
    queued, step = await rig.queued(caller, step_request(await caller.open()))
    assert (queued.reason, queued.continuation) == (pb.WAIT_REASON_WORKING_SET, False)
    assert 0 < queued.live_tokens < queued.live_limit_tokens == ROOM_FOR_TWO * 800 // 1000
    assert 0 < queued.estimate_seconds <= 60
    worker.script.hang_after = None
    worker.resume_output.set()
    log = await step
    assert log.committed is not None
    assert log.events[0] == "queued"


async def test_a_step_is_held_until_the_time_of_a_live_session_is_over(rig: Rig) -> None:
    publish(rig, 60.0)
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_TWO))
    caller, keys = rig.caller(await rig.gateway()), PoolKeys(POOL)
    with rig.redis.client() as raw:
        raw.hset(keys.live, "idle", f"|0||0|{ROOM_FOR_TWO}|0|{worker.worker_id}")
        raw.zadd(keys.live_ends, {"idle": redis_ms(raw, POOL) + 1000})
        queued, step = await rig.queued(caller, step_request(await caller.open()))
        assert queued.live_tokens == ROOM_FOR_TWO
        assert (await step).committed is not None
        assert not raw.hexists(keys.live, "idle")


async def test_a_step_is_let_in_after_the_longest_hold(rig: Rig) -> None:
    publish(rig, 0.2)
    worker, caller, _ = await _busy(rig)
    step = await rig.waiting(caller, step_request(await caller.open()))
    await worker.until(lambda: len(worker.starts) == 2)
    step.cancel()


async def test_a_role_may_refuse_what_was_held_for_long(rig: Rig) -> None:
    publish(rig, 0.2, roles=ROLES)
    _, caller, _ = await _busy(rig)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(await caller.open(role="batch")))
    code, why, retry = fault(error.value)
    assert (code, why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_TIMEOUT)
    assert retry is not None
    assert retry >= 1
    assert "working set" in str(error.value.details())


@pytest.mark.parametrize("dropped", [False, True], ids=["kept", "dropped"])
async def test_a_live_session_that_loses_its_kv_while_its_step_waits_goes_to_the_gate(rig: Rig, dropped: bool) -> None:
    publish(rig, 0.2)
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE))
    caller, keys = rig.caller(await rig.gateway()), PoolKeys(POOL)
    session, other = await caller.open(), await caller.open()
    await caller.step(step_request(session))
    await worker.has_heard_of(1)
    worker.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(other)))
    await worker.until(lambda: len(worker.starts) == 2)
    queued: list[pb.StepQueued] = []

    async def step() -> None:
        async for response in caller.call_step(step_request(session, "s2")):
            if response.HasField("queued"):
                queued.append(response.queued)
                waits.set()

    waits = asyncio.Event()
    waiting = rig.spawn(step())
    await waits.wait()
    with rig.redis.client() as raw:
        if dropped:
            del worker.parked[session.id]
        raw.hset(keys.session(session.id), "updated", 0)  # long ago: what is published is believed
        raw.hset(keys.live, "idle", f"|0||0|{ROOM_FOR_ONE}|0|{worker.worker_id}")
        raw.zadd(keys.live_ends, {"idle": redis_ms(raw, POOL) + 60_000})
    await worker.publish()
    worker.script.hang_after = None
    worker.resume_output.set()
    await asyncio.gather(running, waiting)
    reasons = [event.reason for event in queued]
    assert reasons == [pb.WAIT_REASON_NO_ROOM, *([pb.WAIT_REASON_WORKING_SET] if dropped else [])]
    assert queued[-1].continuation


async def test_where_the_gate_is_off_the_step_runs_at_once(rig: Rig) -> None:
    worker, caller, _ = await _busy(rig)
    rig.spawn(caller.step(step_request(await caller.open())))
    await worker.until(lambda: len(worker.starts) == 2)
