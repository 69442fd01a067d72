"""Steps say what they waited for, where they ran and why there, over real gRPC and null workers."""

import asyncio

import pytest

from gateway_driver import POOL, Rig, StepLog, publish_pool, step_request
from http_client import ask
from null_script import BASE_ID, Script, token_text
from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost.wire_why import why_from_wire
from roost_gateway.fleet import grace
from roost_gateway.step.attempt import StepAttempt

ROOM_FOR_ONE = 600
TEXT = "".join(token_text(BASE_ID + number) for number in range(8))
"""What a step says."""


def why_of(log: StepLog) -> Why:
    assert log.committed is not None
    return why_from_wire(log.committed.why)


async def test_waiting_steps_say_how_many_of_which_kind_they_waited_for(rig: Rig) -> None:
    publish_pool(rig.redis, activeRevision="rev-1")
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE))
    caller = rig.caller(await rig.gateway())
    sessions = [await caller.open() for _ in range(3)]
    for session in sessions:
        await caller.step(step_request(session, "first"))
    worker.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(sessions[0], "running")))
    await worker.until(lambda: len(worker.starts) == 4)
    waiting = [
        await rig.waiting(caller, step_request(session, "next"))
        for session in (sessions[1], await caller.open(), sessions[2], await caller.open())
    ]
    worker.script.hang_after = None
    worker.resume_output.set()
    committed = [why_of(log) for log in await asyncio.gather(running, *waiting)]

    assert committed[0].wait is None
    waits = [why.wait for why in committed[1:]]
    assert all(isinstance(wait, Wait) and wait.seconds > 0 for wait in waits)
    kinds = [(wait.continuations, wait.new_sessions, wait.reason) for wait in waits if wait is not None]
    assert kinds == [
        (0, 0, WaitReason.NO_ROOM),
        (1, 0, WaitReason.LINE),
        (1, 0, WaitReason.LINE),
        (2, 1, WaitReason.LINE),
    ]
    assert committed[4].line.endswith(" behind 2 continuations and 1 new session; the session's first step")


async def test_a_step_that_no_worker_could_take_says_so(rig: Rig) -> None:
    caller = rig.caller(await rig.gateway())
    step = await rig.waiting(caller, step_request(await caller.open()))
    await rig.worker()
    wait = why_of(await step).wait
    assert wait is not None
    assert wait.reason is WaitReason.NO_WORKER


@pytest.mark.parametrize(
    ("fate", "place", "cause", "said"),
    [
        ("stays", Place.HOME, None, "none of 12 tokens rebuilt"),
        (
            "drains",
            Place.HOME_DRAINS,
            RebuildCause.MOVED,
            "ran at other, since its home drained; 11 of 12 tokens rebuilt",
        ),
        ("goes", Place.HOME_GONE, RebuildCause.WORKER_LOST, "ran at other, since its home was gone; 11 of 12 tokens"),
    ],
)
async def test_where_a_step_ran_and_why_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, fate: str, place: Place, cause: RebuildCause | None, said: str
) -> None:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    home = await rig.worker("home")
    caller = rig.caller(gateway := await rig.gateway())
    session = await caller.open()
    first = why_of(await caller.step(step_request(session, "first")))
    assert (first.place, first.cause, first.worker) == (Place.NO_HOME, None, "home")
    await rig.worker("other")
    if fate == "drains":
        home.draining = True
        await home.publish()
    elif fate == "goes":
        await home.stop()
    await gateway.life.fleet.workers.refresh(POOL)
    why = why_of(await caller.step(step_request(session, "second")))
    assert (why.place, why.cause) == (place, cause)
    assert why.line.startswith(said)


async def test_a_worker_that_fails_during_the_step_is_the_cause(rig: Rig) -> None:
    home = await rig.worker("home")
    caller = rig.caller(gateway := await rig.gateway())
    session = await caller.open()
    await caller.step(step_request(session, "first"))
    await rig.worker("other")
    await gateway.life.fleet.workers.refresh(POOL)
    home.script.hang_after, log = 2, StepLog()
    step = rig.spawn(caller.step(step_request(session, "second"), log))
    await log.has(2)
    await home.kill()
    why = why_of(await step)
    assert (why.worker, why.cause) == ("other", RebuildCause.WORKER_FAILED)


async def test_a_step_that_leaves_a_home_that_has_dropped_its_session_says_what_the_home_remembers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_answered, note = asyncio.Event(), StepAttempt.home_dropped

    def noted(attempt: StepAttempt, eviction: KvEviction) -> None:
        note(attempt, eviction)
        has_answered.set()

    monkeypatch.setattr(StepAttempt, "home_dropped", noted)
    home = await rig.worker("home")
    caller = rig.caller(gateway := await rig.gateway())
    session = await caller.open()
    await caller.step(step_request(session, "first"))
    await home.has_heard_of(1)
    home.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(await caller.open(), "running")))
    await home.until(lambda: len(home.starts) == 2)
    home.parked.clear()
    home.script.eviction = pb.KvEviction(tokens=12, milliseconds_ago=41_000, policy="LRU")
    with rig.redis.client() as client:  # as if the step had ended a while ago: what is published is believed
        client.hset(PoolKeys(POOL).session(session.id), "updated", 0)
    await home.publish()
    other = await rig.worker("other", Script(hang_after=0))
    await gateway.life.fleet.workers.refresh(POOL)

    step = rig.spawn(caller.step(step_request(session, "second")))
    await has_answered.wait()
    other.resume_output.set()
    why = why_of(await step)
    assert (why.place, why.cause) == (Place.HOME_EMPTY, RebuildCause.EVICTED_FOR_ROOM)
    assert why.line == (
        "ran at other, since its home had nothing of it cached; 11 of 12 tokens rebuilt: "
        "evicted 41 s ago for another session's growth (LRU)"
    )
    home.resume_output.set()
    await running


async def test_workers_are_told_which_evictions_are_of_erased_sessions(rig: Rig) -> None:
    worker = await rig.worker()
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    await caller.stub.EvictSession(pb.EvictSessionRequest(session_id=session.id))
    await caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.id))
    assert [eviction.erased for eviction in worker.evictions] == [False, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_http_responses_have_the_line(rig: Rig, stream: bool) -> None:
    await rig.worker()
    server = await rig.gateway(http_listen="127.0.0.1:0")
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "null", "messages": messages, "stream": stream}
    first = await ask(server.http_address, "POST", "/v1/chat/completions", body)
    assert first.headers["x-roost-why"] == "the session's first step"
    said = TEXT if stream else first.json["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "go on"}]
    second = await ask(server.http_address, "POST", "/v1/chat/completions", body)
    assert second.headers["x-roost-why"] == "none of 12 tokens rebuilt"
