"""A pool's model changes: sessions move to the new revision at their next step, or end on the old one."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from gateway_driver import POOL, Caller, Rig, StepLog, publish_pool, reason, step_request
from null_script import Script, token_text
from null_worker import NullWorker
from roost.contract.reasons import Reason
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost_gateway.front.server import GatewayServer
from roost_gateway.telemetry import Telemetry

OLD, NEW = "rev-1", "rev-2"
MIGRATE, REFUSE = "Migrate", "Refuse"


def turn_to(rig: Rig, revision: str, policy: str = MIGRATE, **sessions: Any) -> None:
    """What the operator publishes."""
    publish_pool(rig.redis, activeRevision=revision, sessions={"onModelChange": policy, **sessions})


async def begun(rig: Rig, steps: int = 1) -> tuple[NullWorker, GatewayServer, pb.Session, pb.Head]:
    """An old worker, a gateway, and a session with committed steps `s0`, `s1`, …"""
    turn_to(rig, OLD)
    worker = await rig.worker("old", revision=OLD)
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    session = await caller.open(system="Be kind.")
    for number in range(steps):
        log = await caller.step(step_request(session, f"s{number}"))
    assert log.committed is not None
    return worker, gateway, session, log.committed.head


async def turned(
    rig: Rig, policy: str = MIGRATE, telemetry: Telemetry | None = None, **sessions: Any
) -> tuple[NullWorker, Caller]:
    """A worker of the new revision and a gateway that knows that the pool has turned to it."""
    turn_to(rig, NEW, policy, **sessions)
    worker = await rig.worker("new", revision=NEW)
    return worker, rig.caller(await rig.gateway(telemetry))


async def refusal(caller: Caller, request: pb.StepRequest, log: StepLog | None = None) -> tuple[Reason, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(request, log)
    return reason(error), str(error.value.details())


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def listed(caller: Caller, session: pb.Session, generation: int) -> list[pb.CommittedStep]:
    request = pb.ListStepsRequest(session_id=session.id, generation=generation, include_token_ids=True)
    return list((await caller.stub.ListSteps(request)).steps)


async def test_a_session_moves_at_its_next_step_and_its_client_is_told(rig: Rig) -> None:
    old, _, session, head = await begun(rig, steps=2)
    new, caller = await turned(rig)
    notices: list[pb.StepMigrated] = []
    async for response in caller.call_step(step_request(session, "next", expected_head=head)):
        if response.HasField("migrated"):
            notices.append(response.migrated)
        else:
            assert notices, "the client is notified before anything else"
    (migrated,) = notices
    assert (migrated.from_revision, migrated.to_revision, migrated.generation) == (OLD, NEW, 2)
    after = await caller.get(session.id)
    assert (after.generation, after.model_revision, after.steps, after.head.generation) == (2, NEW, 3, 2)
    start = new.starts[0].session
    assert (start.generation, start.head.length) == (2, migrated.head.length)
    (asked,) = new.renders
    assert (asked.system, asked.steps_before, len(asked.steps)) == ("Be kind.", 0, 2)
    assert asked.steps[0].text == "".join(token_text(1000 + number) for number in range(8))
    await old.until(lambda: old.evictions)


async def test_both_logs_can_be_read_and_the_next_steps_need_no_migration(rig: Rig) -> None:
    _, _, session, head = await begun(rig, steps=2)
    new, caller = await turned(rig)
    log = await caller.step(step_request(session, "a", expected_head=head))
    assert log.committed is not None
    again = await caller.step(step_request(session, "b", expected_head=log.committed.head))
    assert "migrated" not in again.events
    assert len(new.renders) == 1
    before, after = await listed(caller, session, 1), await listed(caller, session, 2)
    assert [step.step_id for step in before] == ["s0", "s1"]
    assert [step.step_id for step in after] == ["s0", "s1", "a", "b"]
    assert [step.output for step in after[:2]] == [step.output for step in before]
    assert before[0].output_token_ids != after[0].output_token_ids
    assert [len(step.output_token_ids) == step.usage.output_tokens for step in after] == [True] * 4
    assert {step.head.generation for step in before} == {1}


async def test_migrations_are_counted(rig: Rig) -> None:
    _, _, session, head = await begun(rig)
    reader = InMemoryMetricReader()
    _, caller = await turned(rig, telemetry=Telemetry("g", reader=reader))
    await caller.step(step_request(session, "a", expected_head=head))
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    (migrations,) = [metric for metric in metrics if metric.name == "roost.migrations"]
    assert [point.value for point in migrations.data.data_points] == [1]


async def test_a_step_of_the_old_log_sent_again_gets_its_old_result(rig: Rig) -> None:
    _, _, session, head = await begun(rig, steps=2)
    _, caller = await turned(rig)
    await caller.step(step_request(session, "a", expected_head=head))
    again = await caller.step(step_request(session, "s1"))
    assert again.committed is not None
    assert (again.committed.replayed, again.committed.head) == (True, head)
    assert again.ids == list(range(1000, 1008))


async def test_a_gateway_that_has_not_heard_of_the_change_does_not_take_the_session_back(rig: Rig) -> None:
    _, first, session, head = await begun(rig)
    new, caller = await turned(rig)
    log = await caller.step(step_request(session, "a", expected_head=head))
    assert log.committed is not None
    late = await rig.caller(first).step(step_request(session, "b", expected_head=log.committed.head))
    assert "migrated" not in late.events
    assert (await caller.get(session.id)).generation == 2
    assert len(new.starts) == 2


async def test_a_session_without_steps_is_of_no_revision(rig: Rig) -> None:
    _, first, _, _ = await begun(rig)
    empty = await rig.caller(first).open()
    new, caller = await turned(rig, REFUSE)
    log = await caller.step(step_request(empty, expected_head=empty.head))
    assert "migrated" not in log.events
    assert (len(new.starts), len(new.renders)) == (1, 0)
    after = await caller.get(empty.id)
    assert (after.generation, after.model_revision) == (1, NEW)


async def test_refused_sessions_end_on_the_old_revision_while_it_is_served(rig: Rig) -> None:
    old, _, session, head = await begun(rig)
    new, caller = await turned(rig, REFUSE)
    log = await caller.step(step_request(session, "a", expected_head=head))
    assert log.committed is not None
    assert (len(old.starts), len(new.starts)) == (2, 0)
    await old.stop()
    why, details = await refusal(caller, step_request(session, "b", expected_head=log.committed.head))
    assert why is Reason.MODEL_REVISION_MISMATCH
    assert "sessions.onModelChange" in details
    assert (await caller.get(session.id)).generation == 1


async def test_a_log_that_cannot_be_shown_stays_as_it_was(rig: Rig) -> None:
    _, _, session, head = await begun(rig)
    new, caller = await turned(rig)
    new.script.refuse_render = Reason.INVALID_REQUEST
    why, details = await refusal(caller, step_request(session, "a", expected_head=head))
    assert why is Reason.MODEL_REVISION_MISMATCH
    assert f"cannot be rendered for the pool's new revision {NEW}: scripted refusal" in details
    turn_to(rig, OLD)
    log = await rig.caller(await rig.gateway()).step(step_request(session, "a", expected_head=head))
    assert log.committed is not None
    assert log.committed.head.generation == 1


async def test_a_log_that_no_longer_fits_stays_as_it_was(rig: Rig) -> None:
    _, _, session, head = await begun(rig, steps=2)
    _, caller = await turned(rig, maxTokens=40)
    why, details = await refusal(caller, step_request(session, "a", expected_head=head))
    assert why is Reason.STEP_TOO_LONG
    assert f"rendered for the pool's new revision {NEW}" in details
    after = await caller.get(session.id)
    assert (after.generation, after.running_step_id) == (1, "")


async def test_a_log_too_long_in_old_tokens_may_fit_in_new_ones(rig: Rig) -> None:
    _, _, session, head = await begun(rig, steps=3)
    new, caller = await turned(rig)
    turn_to(rig, NEW, maxTokens=int(head.length) - 1)
    new.script.renders_short = True
    caller = rig.caller(await rig.gateway())
    log = await caller.step(step_request(session, "a", expected_head=head, sampling=pb.Sampling(max_tokens=4)))
    assert log.committed is not None


@pytest.mark.parametrize("why", [Reason.WORKER_LOST, Reason.WORKER_DRAINING])
async def test_another_worker_renders_when_one_is_lost_or_drains(rig: Rig, why: Reason) -> None:
    _, _, session, head = await begun(rig)
    turn_to(rig, NEW)
    script = Script(refuse_render=why)  # of both: the first that is asked refuses
    workers = [await rig.worker(name, script, revision=NEW) for name in ("new-1", "new-2")]
    caller = rig.caller(await rig.gateway())
    log = await caller.step(step_request(session, "a", expected_head=head))
    assert log.committed is not None
    assert (await caller.get(session.id)).generation == 2
    assert [len(worker.renders) for worker in workers] == [1, 1]


async def test_an_output_begun_on_the_old_revision_is_ended_there(rig: Rig) -> None:
    old, first, session, head = await begun(rig)
    old.script = Script(tokens=12, hang_after=5)
    log = StepLog()
    step = rig.spawn(rig.caller(first).step(step_request(session, "a", expected_head=head), log))
    await log.has(5)
    new, caller = await turned(rig)
    await first.stop(0.0)
    with pytest.raises(grpc.aio.AioRpcError):
        await step
    old.resume_output.set()
    whole = await caller.step(step_request(session, "a", expected_head=head, received=log.cursor()), log)
    assert whole.committed is not None
    assert (whole.committed.head.generation, whole.restarts, len(whole.ids)) == (1, 0, 12)
    assert not new.starts
    after = await caller.step(step_request(session, "b", expected_head=whole.committed.head))
    assert after.events[0] == "migrated"


async def test_an_output_that_nobody_can_end_begins_again_on_the_new_revision(rig: Rig) -> None:
    old, first, session, head = await begun(rig)
    old.script = Script(tokens=12, hang_after=5)
    log, request = StepLog(), step_request(session, "a", expected_head=head)
    step = rig.spawn(refusal(rig.caller(first), request, log))
    await log.has(5)
    _, caller = await turned(rig)
    await old.stop()
    assert (await step)[0] is Reason.WORKER_LOST
    request.received.CopyFrom(log.cursor())
    again = await caller.step(request, log)
    assert again.committed is not None
    assert (again.restarts, again.committed.head.generation) == (1, 2)
    assert again.events.index("migrated") < again.events.index("restarted")


@pytest.mark.parametrize(
    ("point", "generation"), [("gateway.migration.begun", 1), ("gateway.rendered", 1), ("gateway.migrated", 2)]
)
async def test_a_gateway_that_dies_on_the_way_leaves_one_log_or_the_other(
    rig: Rig, tmp_path: Path, point: str, generation: int
) -> None:
    _, _, session, head = await begun(rig, steps=2)
    new, caller = await turned(rig)
    doomed = rig.caller(await rig.process(tmp_path, f"{point}:kill"))
    request = step_request(session, "a", expected_head=head)
    with pytest.raises(grpc.aio.AioRpcError):
        await doomed.step(request)
    assert (await caller.get(session.id)).generation == generation
    log = await caller.step(request)
    assert log.events[0] == "migrated", "told also by a gateway that did not migrate"
    assert log.committed is not None
    after = await caller.get(session.id)
    assert (after.generation, after.steps) == (2, 3)
    assert len(new.renders) == {1: 2, 2: 1}[generation] - (point == "gateway.migration.begun")
    with rig.redis.client() as client:
        assert client.hlen(PoolKeys(POOL).reservations) == 0


async def test_what_waits_for_the_old_revision_is_sent_to_the_new_one(rig: Rig) -> None:
    old, first, session, head = await begun(rig)
    caller = rig.caller(first)
    old.script = Script(hang_after=0, max_running=1, capacity_tokens=1)
    await old.publish()
    rig.spawn(caller.step(step_request(await caller.open(), "busy")))
    await old.until(lambda: len(old.starts) == 2)
    request = step_request(session, "a", expected_head=head)
    waiting = caller.call_step(request)
    assert (await waiting.read()).HasField("queued")
    old.draining = True
    await old.publish()
    _, informed = await turned(rig)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read_to_the_end(waiting)
    assert reason(error) is Reason.WORKER_LOST
    log = await informed.step(request)
    assert log.events[0] == "migrated"
