"""A session is folded on a whole gateway: a summary in place of its first steps, by the client or by the model."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gateway_driver import LIMIT_SECONDS, POOL, Caller, Rig, publish_pool, step_request, violations
from null_script import BASE_ID, Script, token_text
from refused_calls import refused_rpc
from roost.contract.budgets import BudgetScope, BudgetStatus
from roost.contract.reasons import Reason
from roost.grpc_errors import details_of
from roost.store.folding import SUMMARY_PROMPT
from roost.v1 import session_service_pb2 as pb
from roost_gateway.core.caller import ANYONE
from roost_gateway.core.summaries import write_summary
from roost_gateway.front.server import GatewayServer

TOKENS = 6
TEXT = "".join(token_text(BASE_ID + number) for number in range(TOKENS))
"""What a null worker's model always says."""
SCRIPT = Script(prompt_ids=10, tokens=TOKENS)


async def begun(
    rig: Rig, steps: int = 4, gateway: GatewayServer | None = None, **fields: Any
) -> tuple[Caller, pb.Session]:
    """A session with steps `s0`, `s1`, …, whose user said `0`, `1`, …."""
    caller = rig.caller(gateway or await rig.gateway())
    session = await caller.open(system="Be kind.", **fields)
    for number in range(steps):
        await caller.step(step_request(session, f"s{number}", str(number)))
    return caller, await caller.get(session.id)


async def fold(caller: Caller, session: pb.Session, **fields: Any) -> pb.Session:
    request = pb.FoldSessionRequest(session_id=session.id, **fields)
    return (await caller.stub.FoldSession(request, metadata=caller.metadata)).session


async def log_of(caller: Caller, session: pb.Session, generation: int = 0) -> list[tuple[list[str], str]]:
    """What was said in each step, and what was answered."""
    request = pb.ListStepsRequest(session_id=session.id, generation=generation)
    steps = (await caller.stub.ListSteps(request, metadata=caller.metadata)).steps
    return [([message.content for message in step.messages], step.output.content) for step in steps]


async def test_a_summary_stands_in_place_of_the_first_steps_and_the_rest_stays(rig: Rig) -> None:
    worker = await rig.worker(script=SCRIPT)
    caller, session = await begun(rig)
    old = await log_of(caller, session)
    folded = await fold(caller, session, summary="We counted.", keep_turns=1, expected_head=session.head)
    assert (folded.generation, folded.steps, folded.running_step_id) == (2, 2, "")
    assert await log_of(caller, session) == [(["0"], "We counted."), (["3"], TEXT)]
    assert await log_of(caller, session, generation=1) == old
    (asked,) = worker.renders
    assert [(step.messages[0].content, step.text, step.without_thinking) for step in asked.steps] == [
        ("0", "We counted.", True),
        ("3", TEXT, False),
    ]
    assert not worker.evictions, "the new log begins as the old one did"
    log = await caller.step(step_request(session, "s4", expected_head=session.head))
    assert log.events[0] == "migrated", "a client that knows the old head learns of the new log"
    assert log.committed is not None
    assert log.committed.head.generation == 2
    assert worker.starts[-1].session.head.log_hash == folded.head.log_hash
    assert (await caller.get(session.id)).usage.prompt_tokens == 50, "what was rendered again is not used again"


async def test_the_model_writes_the_summary_in_a_fork_that_leaves_nothing_behind(rig: Rig) -> None:
    worker = await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, task="t")
    await fold(caller, session)
    assert await log_of(caller, session) == [(["0"], TEXT)]
    asked = worker.starts[-1]
    assert [message.content for message in asked.messages] == [SUMMARY_PROMPT]
    assert asked.deltas == pb.DELTAS_NONE, "nobody reads it as it is written"
    assert asked.session.head.log_hash == session.head.log_hash
    listed = await caller.stub.ListSessions(pb.ListSessionsRequest(pool=POOL))
    assert [listed.id for listed in listed.sessions] == [session.id]
    assert (await caller.get(session.id)).usage.output_tokens == session.usage.output_tokens


@pytest.mark.parametrize("at_budget", [False, True])
async def test_a_client_that_leaves_while_a_summary_is_written_leaves_no_fork_behind(
    rig: Rig, *, at_budget: bool
) -> None:
    publish_folding(rig)
    worker = await rig.worker(script=Script(prompt_ids=10, tokens=TOKENS))
    caller, session = await begun(rig, 3)
    worker.script.hang_after = 2
    call = rig.spawn(caller.step(step_request(session, "s3")) if at_budget else fold(caller, session))
    async with asyncio.timeout(LIMIT_SECONDS):
        await worker.until_it_hangs()
        call.cancel()
        await worker.until(lambda: any(eviction.erased for eviction in worker.evictions))
    listed = await caller.stub.ListSessions(pb.ListSessionsRequest(pool=POOL))
    assert [listed.id for listed in listed.sessions] == [session.id]


class ForksLate:
    """Implements Forking: the fork is written, and its answer comes once `answers` is set."""

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.deleted: list[str] = []

    async def fork(self, *_: Any) -> Any:
        self.asked.set()
        await self.answers.wait()
        return SimpleNamespace(id="a/b/fork")

    def step(self, *_: Any) -> Any:
        raise AssertionError("nobody wants the summary any more")

    async def delete(self, session_id: str, _: Any) -> None:
        self.deleted.append(session_id)


async def test_a_client_that_leaves_as_the_fork_for_a_summary_is_written_leaves_none_behind() -> None:
    gateway: Any = ForksLate()
    writing = asyncio.create_task(write_summary(gateway, "a/b/0", ANYONE, math.inf))
    await gateway.asked.wait()
    writing.cancel()
    asyncio.get_running_loop().call_soon(gateway.answers.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert gateway.deleted == ["a/b/fork"]


async def test_the_same_request_folds_once_whatever_gateway_it_comes_to(rig: Rig) -> None:
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig)
    other = rig.caller(await rig.gateway())
    for some in (caller, other, caller):
        folded = await fold(some, session, keep_turns=1, request_id="once", expected_head=session.head)
        assert (folded.generation, folded.steps) == (2, 2)
    error = await refused_rpc(fold(other, session, keep_turns=1, request_id="once", summary="Another."))
    assert details_of(error).reason == Reason.STEP_ID_REUSED


@pytest.mark.parametrize(("keep", "steps"), [(4, 4), (9, 4), (0, 0)])
async def test_there_must_be_something_to_fold(rig: Rig, keep: int, steps: int) -> None:
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, steps)
    error = await refused_rpc(fold(caller, session, keep_turns=keep, summary="x"))
    assert "keep_turns" in violations(error)
    assert (await caller.get(session.id)).generation == 1
    log = await caller.step(step_request(session, "next"))
    assert log.committed is not None, "the session is free again"


async def test_a_turn_is_kept_with_its_tools_results(rig: Rig) -> None:
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, 2)
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="7", tool_call_id="c")
    await caller.step(pb.StepRequest(session_id=session.id, step_id="t", messages=[result]))
    await fold(caller, session, summary="We counted.", keep_turns=1)
    assert await log_of(caller, session) == [(["0"], "We counted."), (["1"], TEXT), (["7"], TEXT)]


async def test_the_kept_turn_keeps_its_thinking_where_that_of_earlier_ones_leaves_the_log(rig: Rig) -> None:
    publish_pool(rig.redis, model={"name": "null", "contextTokens": 2048, "thinking": "drop"})
    worker = await rig.worker(script=SCRIPT)
    caller, session = await begun(rig)
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="7", tool_call_id="c")
    await caller.step(pb.StepRequest(session_id=session.id, step_id="t", messages=[result]))
    await fold(caller, session, summary="We counted.", keep_turns=1)
    assert [step.without_thinking for step in worker.renders[-1].steps] == [True, False, False]


async def test_a_step_is_read_by_its_id_behind_a_fold(rig: Rig) -> None:
    await rig.worker(script=SCRIPT)
    gateway = await rig.gateway()
    caller, session = await begun(rig, gateway=gateway)
    await fold(caller, session, summary="We counted.", keep_turns=2)
    steps = [await gateway.life.gateway.logged_step(session.id, f"s{number}", ANYONE) for number in range(4)]
    assert [step and step.index for step in steps] == [None, None, 1, 2]


async def test_a_full_session_goes_on_once_it_is_folded(rig: Rig) -> None:
    publish_pool(rig.redis, sessions={"maxTokens": 64})
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, 3)
    error = None
    for number in range(9):
        try:
            await caller.step(step_request(session, f"more{number}"))
        except grpc.aio.AioRpcError as raised:
            error = raised
            break
    assert error is not None
    assert details_of(error).reason == Reason.STEP_TOO_LONG
    await fold(caller, session, summary="We counted.")
    log = await caller.step(step_request(session, "last"))
    assert log.committed is not None


async def test_an_exhausted_session_can_be_folded_and_stays_exhausted(rig: Rig) -> None:
    roles = [{"name": "coder", "maxOutputTokensPerStep": 64, "budgets": {"session": {"steps": 4}, "graceSteps": 0}}]
    publish_pool(rig.redis, roles=roles)
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig)
    folded = await fold(caller, session, summary="We counted.")
    assert folded.head.length < session.head.length
    error = await refused_rpc(caller.step(step_request(session, "s4")))
    assert details_of(error).reason == Reason.BUDGET_EXCEEDED


async def test_a_worker_that_cannot_render_leaves_the_old_log(rig: Rig) -> None:
    script = Script(prompt_ids=10, tokens=TOKENS)
    await rig.worker(script=script)
    caller, session = await begun(rig)
    script.refuse_render = Reason.STEP_TOO_LONG
    assert details_of(await refused_rpc(fold(caller, session, summary="x"))).reason == Reason.STEP_TOO_LONG
    assert (await caller.get(session.id)).generation == 1
    assert (await fold(caller, session, summary="x")).generation == 2


async def test_a_session_of_an_older_model_is_folded_for_the_new_one(rig: Rig) -> None:
    publish_pool(rig.redis, activeRevision="rev-1")
    await rig.worker("old", SCRIPT, revision="rev-1")
    gateway = await rig.gateway()
    caller, session = await begun(rig, gateway=gateway)
    publish_pool(rig.redis, activeRevision="rev-2")
    await rig.worker("new", SCRIPT, revision="rev-2")
    await gateway.life.fleet.pools.reread(POOL)
    await gateway.life.fleet.workers.refresh(POOL)
    folded = await fold(caller, session, summary="We counted.", keep_turns=1)
    assert (folded.model_revision, folded.steps, folded.generation) == ("rev-2", 2, 2)


@pytest.mark.parametrize(
    ("point", "generation"), [("gateway.begin.done", 1), ("gateway.rendered", 1), ("gateway.migrated", 2)]
)
async def test_a_fold_whose_gateway_dies_is_done_by_the_next_one_once(
    rig: Rig, tmp_path: Path, point: str, generation: int
) -> None:
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig)
    doomed = rig.caller(await rig.process(tmp_path, f"{point}:kill"))
    request = {"summary": "We counted.", "keep_turns": 1, "request_id": "r", "expected_head": session.head}
    error = await refused_rpc(fold(doomed, session, **request))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (await caller.get(session.id)).generation == generation
    folded = await fold(caller, session, **request)
    assert (folded.generation, folded.steps, folded.running_step_id) == (2, 2, "")
    assert (await caller.step(step_request(session, "on", expected_head=session.head))).committed is not None


def publish_folding(rig: Rig, **budgets: Any) -> None:
    session = {"steps": 3}
    given = {"session": session, "onBudget": "Fold", "keepTurns": 1, "graceSteps": 0, **budgets}
    publish_pool(rig.redis, roles=[{"name": "coder", "maxOutputTokensPerStep": 64, "budgets": given}])


async def test_a_session_is_folded_whenever_its_budget_is_used_up_and_goes_on(rig: Rig) -> None:
    publish_folding(rig, task={"steps": 11})
    await rig.worker(script=SCRIPT)
    caller = rig.caller(await rig.gateway())
    session = await caller.open(task="t")
    head, generations = session.head, []
    for number in range(9):
        log = await caller.step(step_request(session, f"s{number}", str(number), expected_head=head))
        assert log.committed is not None
        assert ("migrated" in log.events) == (number in (3, 6))
        head = log.committed.head
        generations.append(head.generation)
    assert generations == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert await log_of(caller, session) == [(["0"], TEXT), (["5"], TEXT), (["6"], TEXT), (["7"], TEXT), (["8"], TEXT)]
    (status,) = (await caller.get(session.id)).budgets
    assert (status.used, status.limit) == (9, 9)
    error = await refused_rpc(caller.step(step_request(session, "s9", expected_head=head)))
    status = BudgetStatus.from_metadata(details_of(error).metadata)
    assert status is not None
    assert status.scope is BudgetScope.TASK, "the summaries have used the rest of it"
    assert (await caller.get(session.id)).generation == 3


async def test_one_long_turn_is_folded_as_a_whole(rig: Rig) -> None:
    publish_folding(rig)
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, 1)
    for number in range(3):
        result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content=f"r{number}", tool_call_id="c")
        await caller.step(pb.StepRequest(session_id=session.id, step_id=f"t{number}", messages=[result]))
    assert await log_of(caller, session) == [(["0"], TEXT), (["r2"], TEXT)]


async def test_a_session_whose_model_writes_no_summary_is_refused_and_stays_as_it_was(rig: Rig) -> None:
    publish_folding(rig)
    worker = await rig.worker(script=Script(prompt_ids=10, tokens=TOKENS))
    caller, session = await begun(rig, 3)
    worker.script.refuse_render = Reason.STEP_TOO_LONG
    error = await refused_rpc(caller.step(step_request(session, "s3")))
    assert details_of(error).reason == Reason.BUDGET_EXCEEDED
    assert (await caller.get(session.id)).generation == 1
    assert (await caller.step(step_request(session, "s3"))).committed is not None


@pytest.mark.parametrize("point", ["gateway.rendered", "gateway.migrated"])
async def test_a_step_whose_gateway_dies_while_it_folds_is_taken_by_the_next_one(
    rig: Rig, tmp_path: Path, point: str
) -> None:
    publish_folding(rig)
    await rig.worker(script=SCRIPT)
    caller, session = await begun(rig, 3)
    doomed = rig.caller(await rig.process(tmp_path, f"{point}:kill"))
    request = step_request(session, "s3", expected_head=session.head)
    assert (await refused_rpc(doomed.step(request))).code() is grpc.StatusCode.UNAVAILABLE
    log = await caller.step(request)
    assert log.committed is not None
    after = await caller.get(session.id)
    assert (after.generation, after.steps, after.budgets[0].used, after.budgets[0].limit) == (2, 3, 4, 6)
