"""Budgets on a whole gateway: what a step uses is counted, its client is warned, and a paused session goes on later."""

from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from gateway_driver import POOL, Caller, Rig, publish_pool, step_request, violations
from http_client import Answer, ask
from null_script import BASE_ID, Script, token_text
from refused_calls import refused_rpc
from roost.contract.api_keys import hash_api_key
from roost.contract.budgets import BudgetScope, BudgetStatus, BudgetUnit
from roost.contract.reasons import Reason
from roost.grpc_errors import details_of
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost.wire import budgets_from_wire

SCRIPT = Script(prompt_ids=10, tokens=6, gpu_seconds=1.5)
"""Each step uses 16 tokens and 1.5 seconds."""
TEXT = "".join(token_text(BASE_ID + number) for number in range(6))


def publish_budgets(rig: Rig, **budgets: Any) -> None:
    publish_pool(rig.redis, roles=[{"name": "coder", "maxOutputTokensPerStep": 64, "budgets": budgets}])


async def extend(caller: Caller, session: pb.Session, **fields: Any) -> pb.Session:
    request = pb.ExtendBudgetRequest(session_id=session.id, **fields)
    return (await caller.stub.ExtendBudget(request, metadata=caller.metadata)).session


async def test_a_step_says_what_it_used_and_warns_before_it_is_too_late(rig: Rig) -> None:
    publish_budgets(rig, session={"gpuSeconds": 6, "uncachedTokens": 1000}, graceSteps=0, warnAtPercent=75)
    await rig.worker(script=SCRIPT)
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    steps = [(await caller.step(step_request(session, f"s{number}"))).committed for number in range(4)]
    assert [step.usage.gpu_seconds for step in steps] == [1.5] * 4
    gpu = [BudgetStatus(BudgetScope.SESSION, BudgetUnit.GPU_SECONDS, used, 6.0) for used in (4.5, 6.0)]
    assert [budgets_from_wire(step.budgets) for step in steps] == [(), (), (gpu[0],), (gpu[1],)]
    tokens = BudgetStatus(BudgetScope.SESSION, BudgetUnit.TOKENS, 64, 1000)
    session = await caller.get(session.id)
    assert (budgets_from_wire(session.budgets), session.usage.gpu_seconds) == ((tokens, gpu[1]), 6.0)
    error = await refused_rpc(caller.step(step_request(session, "s4")))
    assert details_of(error).reason == Reason.BUDGET_EXCEEDED
    assert BudgetStatus.from_metadata(details_of(error).metadata) == gpu[1]
    again = await caller.step(step_request(session, "s3"))
    assert (again.committed.replayed, again.committed.output) == (True, steps[3].output)
    assert (await caller.get(session.id)).usage.gpu_seconds == 6.0


async def test_a_paused_session_is_extended_by_who_may_and_goes_on_where_it_was(rig: Rig, tmp_path: Path) -> None:
    publish_budgets(rig, session={"steps": 1}, onBudget="Ask", graceSteps=1)
    await rig.worker(script=SCRIPT)
    rights: dict[str, list[str]] = {"agent": [], "person": ["extendBudgets"]}
    keys = [
        {"id": name, "sha256": hash_api_key(name), "tenant": "t", "pools": [POOL], "rights": given}
        for name, given in rights.items()
    ]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))
    gateway = await rig.gateway(api_keys_file=tmp_path / "keys.yaml")
    agent, person = rig.caller(gateway, "agent"), rig.caller(gateway, "person")
    session = await agent.open()
    for number in range(2):
        await agent.step(step_request(session, f"s{number}"))
    before = await agent.get(session.id)
    paused = await refused_rpc(agent.step(step_request(session, "s2")))
    assert details_of(paused).reason == Reason.BUDGET_PAUSED
    assert "roost sessions extend" in (paused.details() or "")
    denied = await refused_rpc(extend(agent, session, steps=5))
    assert (denied.code(), details_of(denied).reason) == (grpc.StatusCode.PERMISSION_DENIED, Reason.RIGHT_MISSING)
    assert "rights: [extendBudgets]" in (denied.details() or "")
    extended = await extend(person, session, steps=2, request_id="once")
    extended = await extend(person, session, steps=2, request_id="once")
    assert budgets_from_wire(extended.budgets) == (BudgetStatus(BudgetScope.SESSION, BudgetUnit.STEPS, 2, 3),)
    log = await agent.step(step_request(session, "s2", expected_head=before.head))
    assert log.committed is not None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "tokens"),
        ({"steps": 1, "gpu_seconds": -1.0}, "gpu_seconds"),
        ({"steps": 1, "wall_seconds": float("nan")}, "wall_seconds"),
        ({"steps": 10**12}, "steps"),
        ({"tokens": 5}, "tokens"),
        ({"steps": 1, "scope": pb.BUDGET_SCOPE_TENANT}, "scope"),
        ({"steps": 1, "scope": 77}, "scope"),
        ({"steps": 1, "scope": pb.BUDGET_SCOPE_TASK}, "scope"),
        ({"steps": 1, "request_id": "a b"}, "request_id"),
    ],
)
async def test_an_extension_that_cannot_be_is_refused_by_field(rig: Rig, fields: dict[str, Any], field: str) -> None:
    publish_budgets(rig, session={"steps": 1}, task={"steps": 1}, onBudget="Ask")
    caller = rig.caller(await rig.gateway())
    error = await refused_rpc(extend(caller, await caller.open(), **fields))
    assert details_of(error).reason == Reason.INVALID_REQUEST
    assert field in violations(error)


async def test_a_role_that_rejects_lets_nobody_extend(rig: Rig) -> None:
    publish_budgets(rig, session={"steps": 1})
    caller = rig.caller(await rig.gateway())
    error = await refused_rpc(extend(caller, await caller.open(), steps=1))
    assert "set budgets.onBudget of the role to Ask" in violations(error)["session_id"]


async def test_children_and_forks_use_up_the_tasks_budget(rig: Rig) -> None:
    publish_budgets(rig, task={"steps": 3}, graceSteps=5)
    await rig.worker(script=SCRIPT)
    caller = rig.caller(await rig.gateway())
    parent = await caller.open(task="fix #12")
    await caller.step(step_request(parent))
    child = await caller.open(parent_session_id=parent.id)
    assert child.task == "fix #12"
    await caller.step(step_request(child))
    fork = (await caller.stub.ForkSession(pb.ForkSessionRequest(session_id=parent.id))).session
    await caller.step(step_request(fork))
    late = await caller.open(parent_session_id=child.id)
    error = await refused_rpc(caller.step(step_request(late)))
    assert BudgetStatus.from_metadata(details_of(error).metadata).scope is BudgetScope.TASK
    assert (await caller.step(step_request(parent, "last"))).committed is not None
    elsewhere = await caller.open(parent_session_id=parent.id, task="another")
    assert (await caller.step(step_request(elsewhere))).committed is not None


async def test_a_task_has_an_account_only_while_a_role_of_the_pool_limits_tasks(rig: Rig) -> None:
    publish_budgets(rig, session={"steps": 9})
    await rig.worker(script=SCRIPT)
    gateway = await rig.gateway()
    caller, account = rig.caller(gateway), PoolKeys(POOL).task_account("default", "t")
    session = await caller.open(task="t", role="coder")
    await caller.step(step_request(session, "a"))
    with rig.redis.client() as redis:
        assert not redis.exists(account)
    roles = [{"name": "coder"}, {"name": "other", "budgets": {"task": {"steps": 9}}}]
    publish_pool(rig.redis, roles=roles)
    await gateway.life.fleet.pools.reread(POOL)
    await caller.step(step_request(session, "b"))
    with rig.redis.client() as redis:
        assert redis.hget(account, "spent:steps") == b"1", "sessions of all roles share a task"


async def test_a_tenants_budget_is_of_all_its_sessions_and_says_when_it_begins_again(rig: Rig) -> None:
    window = {"steps": 2, "windowSeconds": 31_536_000}
    publish_pool(rig.redis, roles=[{"name": "coder", "budgets": {"graceSteps": 0}}], tenantBudget=window)
    await rig.worker(script=SCRIPT)
    caller = rig.caller(await rig.gateway())
    for _ in range(2):
        await caller.step(step_request(await caller.open()))
    error = await refused_rpc(caller.step(step_request(await caller.open())))
    assert details_of(error).reason == Reason.BUDGET_EXCEEDED
    details = details_of(error)
    assert BudgetStatus.from_metadata(details.metadata) == BudgetStatus(BudgetScope.TENANT, BudgetUnit.STEPS, 2, 2)
    assert details.retry_seconds is not None
    assert 0 < details.retry_seconds <= window["windowSeconds"]


async def test_a_step_that_a_second_worker_finishes_counts_once(rig: Rig) -> None:
    publish_budgets(rig, task={"gpuSeconds": 100}, warnAtPercent=1)
    dying = await rig.worker("null-1", Script(prompt_ids=10, tokens=6, gpu_seconds=1.5, hang_after=3))
    caller = rig.caller(await rig.gateway())
    session = await caller.open(task="t")
    running = rig.spawn(caller.step(step_request(session)))
    await dying.until(lambda: dying.starts)
    await rig.worker("null-2", SCRIPT)
    await dying.stop()
    committed = (await running).committed
    assert committed is not None
    assert committed.failovers == 1
    assert budgets_from_wire(committed.budgets) == (BudgetStatus(BudgetScope.TASK, BudgetUnit.GPU_SECONDS, 1.5, 100),)
    assert (await caller.get(session.id)).usage.gpu_seconds == 1.5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "api"), [("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")])
async def test_http_clients_are_warned_by_a_header_and_refused_in_their_apis_form(
    rig: Rig, stream: bool, path: str, api: str
) -> None:
    publish_budgets(rig, session={"steps": 2}, graceSteps=0, warnAtPercent=50)
    await rig.worker(script=SCRIPT)
    gateway = await rig.gateway(http_listen="127.0.0.1:0")
    messages: list[dict[str, Any]] = []

    async def say(text: str) -> Answer:
        messages.append({"role": "user", "content": text})
        body = {"model": "null", "max_tokens": 20, "messages": messages}
        answer = await ask(gateway.http_address, "POST", path, {**body, "stream": stream}, x_roost_session="s")
        messages.append({"role": "assistant", "content": TEXT})
        return answer

    first, second, third = [await say(text) for text in ("one", "two", "three")]
    session_id = first.headers["x-roost-session"]
    assert first.headers.get("x-roost-budget") == (None if stream else "session steps 1/2")
    assert second.status == 200
    assert (second.headers["x-roost-session"], third.status) == (session_id, 400)
    assert second.headers["x-roost-budget"] == ("session steps 1/2" if stream else "session steps 2/2")
    error = third.json["error"]
    assert "the session has used 2 of 2 steps" in error["message"]
    assert error["type"] == "invalid_request_error"
    assert third.headers["x-roost-error"] == "budget_exceeded"
    assert error.get("code") == ("budget_exceeded" if api == "openai" else None)
