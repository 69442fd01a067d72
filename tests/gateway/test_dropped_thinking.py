"""`thinking: drop`: a user's message that begins another turn takes the thinking of earlier ones out of the log."""

from pathlib import Path

import grpc
import pytest

from gateway_driver import Caller, Rig, StepLog, publish_pool, reason, step_request
from null_script import RENDERED_ID
from null_worker import NullWorker
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb
from roost_gateway.front.server import GatewayServer

TURN = 12
"""Tokens of a null worker's step."""


def publish(rig: Rig, thinking: str = "drop", *, limit: int = 2048, revision: str = "") -> None:
    model = {"name": "null", "contextTokens": limit, "thinking": thinking}
    publish_pool(rig.redis, model=model, activeRevision=revision)


async def begun(rig: Rig, thinking: str = "drop") -> tuple[NullWorker, GatewayServer, Caller, pb.Session]:
    """A worker whose model thinks, a gateway, and a session without steps."""
    publish(rig, thinking)
    worker = await rig.worker()
    worker.script.reasoning = "Hm."
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    return worker, gateway, caller, await caller.open(system="Be kind.")


def said(session: pb.Session, step_id: str, head: pb.Head | None = None) -> pb.StepRequest:
    return step_request(session, step_id, expected_head=head)


def returned(session: pb.Session, step_id: str, head: pb.Head) -> pb.StepRequest:
    """A step with a tool's result."""
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="7", tool_call_id="c")
    return pb.StepRequest(session_id=session.id, step_id=step_id, messages=[result], expected_head=head)


async def stepped(caller: Caller, request: pb.StepRequest) -> tuple[pb.StepCommitted, bool]:
    """A step's result, and whether the session got another log before it."""
    log = await caller.step(request)
    assert log.committed is not None
    return log.committed, "migrated" in log.events


async def test_a_users_message_takes_the_thinking_of_earlier_turns_out_of_the_log(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    first, _ = await stepped(caller, said(session, "a"))
    second, moved = await stepped(caller, returned(session, "b", first.head))
    assert not moved, "a tool's result goes on with the turn"
    events = [response async for response in caller.call_step(said(session, "c", second.head))]
    migrated, committed = events[0].migrated, events[-1].committed
    assert migrated.from_revision == migrated.to_revision
    assert (migrated.generation, committed.head.generation) == (2, 2)
    (asked,) = worker.renders
    assert (asked.steps_before, asked.date) == (0, worker.starts[0].date)
    assert [step.without_thinking for step in asked.steps] == [True, True]
    assert worker.starts[-1].session.head.log_hash == migrated.head.log_hash
    old = await caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, generation=1))
    assert [step.step_id for step in old.steps] == ["a", "b"]
    assert not worker.evictions, "the new log begins as the old one did"


async def test_what_is_computed_again_is_counted_as_rebuilt(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    first, _ = await stepped(caller, said(session, "a"))
    worker.parked.clear()  # a null worker knows no common prefix
    second, moved = await stepped(caller, said(session, "b", first.head))
    assert moved
    assert second.usage.reconstructed_tokens == worker.starts[-1].session.head.length - 1


async def test_only_what_follows_the_first_thinking_is_rendered_again(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    worker.script.reasoning = ""
    first, _ = await stepped(caller, said(session, "a"))
    worker.script.reasoning = "Hm."
    second, moved = await stepped(caller, said(session, "b", first.head))
    assert not moved, "nothing to take out"
    third, moved = await stepped(caller, said(session, "c", second.head))
    assert moved
    (asked,) = worker.renders
    assert (asked.steps_before, asked.tokens_before, asked.last_token_id) == (1, TURN, 1007)
    assert len(asked.steps) == 1
    listed = await caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, include_token_ids=True))
    kept, rendered, last = listed.steps
    assert list(kept.output_token_ids) == list(range(1000, 1008))
    assert min(rendered.prompt_token_ids) >= RENDERED_ID
    assert last.head == third.head
    assert [step.reasoning for step in listed.steps] == ["", "Hm.", "Hm."], "the record keeps what the model thought"


async def test_reasoning_has_no_more_tokens_than_the_output_that_was_rendered_again(rig: Rig) -> None:
    """Without its thinking an output may have fewer tokens than the model thought in."""
    worker, _, caller, session = await begun(rig)
    worker.script.reasoning_tokens = 1000
    first, _ = await stepped(caller, said(session, "a"))
    await stepped(caller, said(session, "b", first.head))
    listed = await caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id))
    assert all(step.reasoning_tokens == step.usage.output_tokens for step in listed.steps)


async def test_each_turn_with_thinking_is_taken_out_once(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    head, moves = None, list[bool]()
    for number, reasoning in enumerate(["Hm.", "Hm.", "", "", "Hm.", "Hm."]):
        worker.script.reasoning = reasoning
        committed, moved = await stepped(caller, said(session, f"s{number}", head))
        head, moves = committed.head, [*moves, moved]
    assert moves == [False, True, True, False, False, True]
    assert [asked.steps_before for asked in worker.renders] == [0, 1, 4]


@pytest.mark.parametrize(("thinking", "reasoning"), [("keep", "Hm."), ("drop", "")])
async def test_a_log_stays_where_thinking_is_kept_or_nobody_thought(rig: Rig, thinking: str, reasoning: str) -> None:
    worker, _, caller, session = await begun(rig, thinking)
    worker.script.reasoning = reasoning
    first, _ = await stepped(caller, said(session, "a"))
    second, moved = await stepped(caller, said(session, "b", first.head))
    assert (moved, second.head.generation, len(worker.renders)) == (False, 1, 0)


async def test_thinking_that_cannot_be_taken_out_stays(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    first, _ = await stepped(caller, said(session, "a"))
    worker.script.refuse_render = Reason.INVALID_REQUEST
    second, moved = await stepped(caller, said(session, "b", first.head))
    assert (moved, second.head.generation) == (False, 1)
    third, moved = await stepped(caller, said(session, "c", second.head))
    assert (moved, third.head.generation) == (True, 2)


async def test_a_log_that_is_full_of_thinking_has_room_again_at_the_next_turn(rig: Rig) -> None:
    worker, _, caller, session = await begun(rig)
    first, _ = await stepped(caller, said(session, "a", None))
    publish(rig, limit=TURN)
    worker.script.renders_short = True
    full = rig.caller(await rig.gateway())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await full.step(returned(session, "b", first.head))
    assert reason(error) is Reason.STEP_TOO_LONG
    sampling = pb.Sampling(max_tokens=1)
    log = await full.step(step_request(session, "c", "?", expected_head=first.head, sampling=sampling))
    assert log.committed is not None
    assert log.events[0] == "migrated"


@pytest.mark.parametrize(
    ("point", "generation"), [("gateway.migration.begun", 1), ("gateway.rendered", 1), ("gateway.migrated", 2)]
)
async def test_a_gateway_that_dies_on_the_way_leaves_one_log_or_the_other(
    rig: Rig, tmp_path: Path, point: str, generation: int
) -> None:
    _, _, caller, session = await begun(rig)
    first, _ = await stepped(caller, said(session, "a"))
    doomed = rig.caller(await rig.process(tmp_path, f"{point}:kill"))
    request = said(session, "b", first.head)
    with pytest.raises(grpc.aio.AioRpcError):
        await doomed.step(request)
    assert (await caller.get(session.id)).generation == generation
    log = await caller.step(request)
    assert log.events[0] == "migrated"
    assert log.committed is not None
    assert log.committed.head.generation == 2


async def test_an_output_of_which_the_client_has_some_goes_on_in_its_log(rig: Rig) -> None:
    worker, gateway, caller, session = await begun(rig, "keep")
    first, _ = await stepped(caller, said(session, "a"))
    worker.script.tokens, worker.script.hang_after = 12, 5
    request = said(session, "b", first.head)
    log = StepLog()
    step = rig.spawn(caller.step(request, log))
    await log.has(5)
    publish(rig, "drop")
    other = rig.caller(await rig.gateway())
    await gateway.stop(0.0)
    with pytest.raises(grpc.aio.AioRpcError):
        await step
    worker.resume_output.set()
    request.received.CopyFrom(log.cursor())
    whole = await other.step(request, log)
    assert whole.committed is not None
    assert (whole.committed.head.generation, whole.restarts, len(whole.ids)) == (1, 0, 12)


async def test_a_changed_model_leaves_the_thinking_of_the_running_turn(rig: Rig) -> None:
    _, _, caller, session = await begun(rig)
    head = None
    for step_id in ("a", "b"):
        committed, _ = await stepped(caller, said(session, step_id, head))
        head = committed.head
    committed, _ = await stepped(caller, returned(session, "c", committed.head))
    publish(rig, revision="rev-9")
    new = await rig.worker("new", revision="rev-9")
    fresh = rig.caller(await rig.gateway())
    committed, moved = await stepped(fresh, returned(session, "d", committed.head))
    assert moved
    (asked,) = new.renders
    assert (asked.steps_before, [step.without_thinking for step in asked.steps]) == (0, [True, False, False])
    new.script.reasoning = ""
    await stepped(fresh, said(session, "e", committed.head))
    assert (new.renders[-1].steps_before, len(new.renders[-1].steps)) == (1, 3)
