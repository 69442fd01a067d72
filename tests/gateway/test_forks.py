"""A session is branched off another one: it goes on where the log is cached, and neither harms the other."""

from typing import Any

import grpc
import pytest

from gateway_driver import POOL, Caller, Rig, publish_pool, reason, step_request, violations
from null_script import Script
from null_worker import NullWorker
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost_gateway.core.caller import ANYONE

FORKS = 6
"""So many sessions do not all have their place on the ring of workers beside the same one."""
WRONG_HASH = bytes(range(16))


async def forked(caller: Caller, session_id: str, at: pb.Head | None = None, **fields: Any) -> pb.Session:
    request = pb.ForkSessionRequest(session_id=session_id, at=at, **fields)
    return (await caller.stub.ForkSession(request, metadata=caller.metadata)).session


async def begun(rig: Rig, *workers: str, steps: int = 2) -> tuple[Caller, pb.Session, list[NullWorker]]:
    """A gateway, and a session with steps `s0`, `s1`, … that the first of the workers has cached."""
    running = [await rig.worker(name, Script(prompt_ids=50)) for name in workers[:1]]
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    session = await caller.open(system="Be kind.", task="t", labels={"of": "parent"})
    for number in range(steps):
        await caller.step(step_request(session, f"s{number}"))
    await running[0].has_heard_of(steps)
    await running[0].publish()
    running += [await rig.worker(name, Script(prompt_ids=50)) for name in workers[1:]]
    await gateway.life.fleet.workers.refresh(POOL)
    return caller, await caller.get(session.id), running


async def listed(caller: Caller, session_id: str) -> list[pb.CommittedStep]:
    request = pb.ListStepsRequest(session_id=session_id, include_token_ids=True)
    return list((await caller.stub.ListSteps(request)).steps)


async def why(call: Any) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason(error)


async def test_the_first_step_goes_to_the_worker_that_has_the_other_session_cached(rig: Rig) -> None:
    caller, session, (home, other) = await begun(rig, "home", "other")
    with rig.redis.client() as client:  # as if the last step had ended a while ago: what is published is believed
        client.hset(PoolKeys(POOL).session(session.id), "updated", 0)
    for number in range(FORKS):
        fork = await forked(caller, session.id)
        assert (fork.tier, fork.worker, fork.cached_tokens) == (pb.TIER_HOT, "home", session.cached_tokens)
        started = [
            response.started
            async for response in caller.call_step(step_request(fork, f"f{number}", expected_head=fork.head))
            if response.HasField("started")
        ]
        assert [(event.worker, event.cached_tokens) for event in started] == [("home", session.cached_tokens)]
    assert session.cached_tokens >= session.head.length - 1
    assert (len(home.starts), other.starts) == (2 + FORKS, [])


async def test_a_step_of_a_fork_goes_elsewhere_when_the_other_session_is_not_cached_any_more(rig: Rig) -> None:
    caller, session, (home, other) = await begun(rig, "home", "other")
    fork = await forked(caller, session.id)
    await home.stop()
    log = await caller.step(step_request(fork))
    assert log.committed is not None
    assert other.starts[0].session.head.length == session.head.length, "the worker was sent the log of both"


async def test_a_fork_is_described_and_goes_on_from_its_point(rig: Rig) -> None:
    caller, session, _ = await begun(rig, "home", steps=3)
    steps = await listed(caller, session.id)
    fork = await forked(caller, session.id, steps[1].head, labels={"of": "fork"})
    assert (fork.forked_from.session_id, fork.forked_from.head) == (session.id, steps[1].head)
    assert (fork.task, dict(fork.labels), fork.role) == ("t", {"of": "fork"}, session.role)
    assert (fork.steps, fork.head, fork.usage) == (2, steps[1].head, pb.Usage())
    log = await caller.step(step_request(fork, "mine", expected_head=fork.head))
    assert log.committed is not None
    assert log.committed.index == 2
    after = await listed(caller, fork.id)
    assert after[:2] == steps[:2]
    assert [step.step_id for step in after] == ["s0", "s1", "mine"]
    assert (await caller.get(fork.id)).usage == after[2].usage
    assert await caller.get(session.id) == session


async def test_a_fork_goes_on_when_the_other_session_is_deleted(rig: Rig) -> None:
    caller, session, (home,) = await begun(rig, "home")
    steps = await listed(caller, session.id)
    fork = await forked(caller, session.id)
    await caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.id))
    assert [evicted.session_id for evicted in home.evictions] == [session.id]
    assert await listed(caller, fork.id) == steps
    assert (await caller.step(step_request(fork))).committed is not None
    assert await why(caller.get(session.id)) is Reason.SESSION_NOT_FOUND
    assert await why(forked(caller, session.id)) is Reason.SESSION_NOT_FOUND


async def test_a_fork_of_a_running_session_has_its_committed_log(rig: Rig) -> None:
    caller, session, (home,) = await begun(rig, "home")
    home.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(session, "long")))
    await home.until(lambda: len(home.starts) == 3)
    fork = await forked(caller, session.id)
    assert (fork.head, fork.running_step_id) == (session.head, "")
    home.script.hang_after = None
    assert (await caller.step(step_request(fork, "beside"))).committed is not None
    home.resume_output.set()
    assert (await running).committed is not None


async def test_a_forks_budget_counts_what_it_adds(rig: Rig) -> None:
    caller, session, _ = await begun(rig, "home")
    used = session.usage.prompt_tokens + session.usage.output_tokens
    roles = [{"name": "coder", "maxOutputTokensPerStep": 8, "sessionTokenBudget": used, "maxStepsPerSession": 2}]
    publish_pool(rig.redis, roles=roles)
    caller = rig.caller(await rig.gateway())
    assert await why(caller.step(step_request(session, "more"))) is Reason.BUDGET_EXHAUSTED
    fork = await forked(caller, session.id)
    assert fork.budget_remaining_tokens == used
    assert (await caller.step(step_request(fork))).committed is not None
    assert 0 < (await caller.get(fork.id)).budget_remaining_tokens < used


async def test_a_fork_of_a_session_of_an_older_model_migrates_alone(rig: Rig) -> None:
    publish_pool(rig.redis, activeRevision="rev-1", sessions={"onModelChange": "Migrate"})
    await rig.worker("old", revision="rev-1")
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    await caller.step(step_request(session, "s0"))
    publish_pool(rig.redis, activeRevision="rev-2", sessions={"onModelChange": "Migrate"})
    new = await rig.worker("new", revision="rev-2")
    caller = rig.caller(await rig.gateway())
    fork = await forked(caller, session.id)
    assert (fork.generation, fork.model_revision) == (1, "rev-1")
    log = await caller.step(step_request(fork, "next", expected_head=fork.head))
    assert log.events[0] == "migrated"
    assert [len(asked.steps) for asked in new.renders] == [1]
    fork, session = await caller.get(fork.id), await caller.get(session.id)
    assert (fork.generation, fork.steps, fork.model_revision) == (2, 2, "rev-2")
    assert (session.generation, session.steps, session.model_revision) == (1, 1, "rev-1")
    assert [step.step_id for step in await listed(caller, fork.id)] == ["s0", "next"]


async def test_what_is_wrong_with_a_fork_is_named(rig: Rig) -> None:
    caller, session, _ = await begun(rig, "home")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await forked(
            caller, session.id, pb.Head(length=1, log_hash=b"x"), request_id=" ", task="t" * 300, labels={"": "x"}
        )
    assert set(violations(error.value)) == {"request_id", "task", "labels[]", "at.log_hash"}
    nowhere = pb.Head(length=session.head.length, log_hash=WRONG_HASH)
    assert await why(forked(caller, session.id, nowhere)) is Reason.SESSION_ROLLED_BACK
    assert await why(forked(caller, "nope")) is Reason.SESSION_NOT_FOUND
    publish_pool(rig.redis, suspend=True)
    assert await why(forked(rig.caller(await rig.gateway()), session.id)) is Reason.POOL_SUSPENDED


async def test_a_fork_whose_client_has_given_up_is_refused(rig: Rig) -> None:
    _, session, _ = await begun(rig, "home")
    core = (await rig.gateway()).life.gateway
    with pytest.raises(Refused) as error:
        await core.fork(ForkRequest(session.id, Head()), ANYONE, 0.0)
    assert error.value.reason is Reason.DEADLINE_EXCEEDED


async def test_a_fork_is_made_once_for_a_request(rig: Rig) -> None:
    caller, session, _ = await begun(rig, "home")
    first = await forked(caller, session.id, request_id="once")
    assert (await forked(caller, session.id, request_id="once")).id == first.id
    assert (await forked(caller, session.id, request_id="twice")).id != first.id
