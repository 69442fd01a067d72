"""Calls that repeat, on a whole gateway: the step that repeats says so, and the role may stop the session."""

from typing import Any

import grpc
import pytest

from gateway_driver import POOL, Caller, Rig, publish_pool, step_request
from http_client import ask
from null_script import Script
from roost.contract.reasons import Reason
from roost.grpc_errors import details_of
from roost.v1 import session_service_pb2 as pb


def publish_repetition(rig: Rig, **rules: Any) -> None:
    publish_pool(rig.redis, roles=[{"name": "coder", "maxOutputTokensPerStep": 64, "repetition": rules}])


async def begun(rig: Rig, **rules: Any) -> tuple[Script, Caller]:
    """A worker whose model calls what its script says, and a gateway."""
    publish_repetition(rig, **rules)
    script = Script(prompt_ids=5, tokens=3, calls=(("grep", '{"q": 1, "n": 2}'),))
    await rig.worker(script=script)
    return script, rig.caller(await rig.gateway())


def result(session: pb.Session, step_id: str) -> pb.StepRequest:
    message = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="7", tool_call_id="c")
    return pb.StepRequest(session_id=session.id, step_id=step_id, messages=[message])


async def repetition(caller: Caller, request: pb.StepRequest) -> tuple[bool, int, int] | None:
    committed = (await caller.step(request)).committed
    assert committed is not None
    said = committed.repetition
    return (said.in_task, said.period, said.times) if committed.HasField("repetition") else None


async def test_equal_calls_are_reported_from_the_threshold_on(rig: Rig) -> None:
    script, caller = await begun(rig, threshold=3)
    session = await caller.open()
    outcomes = [await repetition(caller, step_request(session, "s0"))]
    for number, arguments in enumerate(['{"n":2,"q":1}', '{"q": 3}', '{"q":1,"n":2}', '{"n": 2, "q": 1}'], 1):
        script.calls = (("grep", arguments),)
        outcomes.append(await repetition(caller, result(session, f"s{number}")))
    assert outcomes == [None] * 5, "another call lay between them"
    outcomes = [await repetition(caller, result(session, f"t{number}")) for number in range(2)]
    assert outcomes == [(False, 1, 3), (False, 1, 4)]


async def test_a_cycle_is_reported_and_a_users_message_or_an_answer_begins_again(rig: Rig) -> None:
    script, caller = await begun(rig, threshold=2)
    session = await caller.open()
    await caller.step(step_request(session, "u"))
    outcomes = []
    for number in range(4):
        script.calls = (("grep", f'{{"q": {number % 2 + 7}}}'),)
        outcomes.append(await repetition(caller, result(session, f"s{number}")))
    assert outcomes == [None, None, None, (False, 2, 2)]
    assert await repetition(caller, step_request(session, "other")) is None
    script.calls = ()
    assert await repetition(caller, result(session, "answer")) is None
    script.calls = (("grep", '{"q": 8}'),)
    assert await repetition(caller, result(session, "after")) is None


async def test_sessions_of_a_task_that_call_the_same_are_reported(rig: Rig) -> None:
    _, caller = await begun(rig, taskThreshold=3)
    outcomes = [await repetition(caller, step_request(await caller.open(task="t"))) for _ in range(4)]
    assert outcomes == [None, None, (True, 1, 3), (True, 1, 4)]
    assert await repetition(caller, step_request(await caller.open(task="another"))) is None
    assert await repetition(caller, step_request(await caller.open())) is None


async def test_a_session_that_is_stopped_goes_on_with_a_users_message(rig: Rig) -> None:
    _, caller = await begun(rig, threshold=2, onRepetition="Stop")
    session = await caller.open()
    await caller.step(step_request(session, "s0"))
    assert await repetition(caller, result(session, "s1")) == (False, 1, 2)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(result(session, "s2"))
    assert details_of(error.value).reason == Reason.REPETITION_STOPPED
    assert "session period 1 times 2" in (error.value.details() or "")
    assert "a user's message" in (error.value.details() or "")
    repeated = (await caller.step(result(session, "s1"))).committed
    assert repeated is not None, "a committed step has its result, whatever came after it"
    assert repeated.replayed
    assert await repetition(caller, step_request(session, "u", "Stop that.")) is None
    assert await repetition(caller, result(session, "s3")) == (False, 1, 2)


async def test_a_role_that_loses_its_thresholds_stops_and_reports_nothing_more(rig: Rig) -> None:
    publish_repetition(rig, threshold=2, onRepetition="Stop")
    await rig.worker(script=Script(prompt_ids=5, tokens=3, calls=(("grep", "{}"),)))
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    session = await caller.open()
    await caller.step(step_request(session, "s0"))
    assert await repetition(caller, result(session, "s1")) == (False, 1, 2)
    publish_repetition(rig, threshold=0, onRepetition="Stop")
    await gateway.life.fleet.pools.reread(POOL)
    assert await repetition(caller, result(session, "s2")) is None
    assert await repetition(caller, result(session, "s3")) is None


async def test_http_clients_get_a_header_and_an_error(rig: Rig) -> None:
    publish_pool(rig.redis, roles=[{"name": "coder", "repetition": {"threshold": 2, "onRepetition": "Stop"}}])
    await rig.worker(script=Script(prompt_ids=5, tokens=3, calls=(("grep", "{}"),)))
    gateway = await rig.gateway(http_listen="127.0.0.1:0")
    tools = [{"type": "function", "function": {"name": "grep", "parameters": {"type": "object"}}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "look"}]
    answers = []
    for _ in range(3):
        body = {"messages": messages, "tools": tools}
        answer = await ask(gateway.http_address, "POST", "/v1/chat/completions", body, x_roost_session="s")
        answers.append(answer)
        if answer.status == 200:
            said = answer.json["choices"][0]["message"]
            messages += [said, {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "7"}]
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert [answer.headers.get("x-roost-repetition") for answer in answers[:2]] == [None, "session period 1 times 2"]
    assert answers[2].json["error"]["code"] == "repetition_stopped"
