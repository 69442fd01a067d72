"""The parts of a step's output in a gateway: what came is sent once, and stored when the message does not say it."""

from array import array
from dataclasses import replace

import pytest

from roost.contract.events import ArgumentsPart, CallPart, Committed, Delta, FinishReason, Part, TextPart
from roost.contract.heads import AttemptRef
from roost.contract.loghash import pack_ids
from roost.contract.messages import ToolCall
from roost.contract.parts import PartLog
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.steps import Cursor, StepRequest
from roost.store.records import AlreadyCommitted
from roost_gateway.step.commit import commit_request, replay
from roost_gateway.step.output import Outbox, OutputGapError, StepOutcome, StepOutput
from roost_gateway.step.worker_requests import call_seed, resume, start
from step_attempts import attempt_of, descriptor_of

POOL = PoolDocument.from_json("test/parts", {"model": {"name": "m"}})
ATTEMPT = AttemptRef(1, b"n" * 16)
CALL = ToolCall("call_0", "grep", "{}")
CALL_PARTS = (CallPart(0, "call_0", "grep"), ArgumentsPart(0, "{}"))
OUTCOME = StepOutcome(FinishReason.TOOL_CALLS, "ab", "ab", (CALL,), 2, 0)


def _append(output: StepOutput, text: str, parts: tuple[Part, ...], part_offset: int) -> None:
    output.append([len(output.ids)], text, len(output.ids), len(output.text), (), parts, part_offset)


def test_parts_that_a_worker_sends_again_are_left_out() -> None:
    output = StepOutput(ATTEMPT)
    _append(output, "a", (TextPart("a"),), 0)
    _append(output, "b", (TextPart("ab"), *CALL_PARTS), 0)
    delta = output.take()
    assert delta is not None
    assert (delta.parts, delta.part_offset) == ((TextPart("ab"), *CALL_PARTS), 0)
    with pytest.raises(OutputGapError, match="parts at unit 6"):
        _append(output, "", (TextPart("c"),), 6)


def test_parts_may_come_without_text() -> None:
    output = StepOutput(ATTEMPT, Cursor(ATTEMPT, 1, 1, 1))
    _append(output, "a", (TextPart("a"),), 0)
    assert output.take() is None
    output.append((), "", 1, 1, (), CALL_PARTS, 1)
    delta = output.take()
    assert delta is not None
    assert (delta.text, len(delta.token_ids), delta.parts, delta.part_offset) == ("", 0, CALL_PARTS, 1)
    output.rewind()
    again = output.take()
    assert again is not None
    assert again.parts == (TextPart("a"), *CALL_PARTS)


def test_a_worker_that_knows_no_parts_has_its_message_as_parts() -> None:
    output = StepOutput(ATTEMPT)
    output.append([0, 1], "ab", 0, 0)
    output.finish(OUTCOME)
    assert output.parts.after(0) == (TextPart("ab"), *CALL_PARTS)
    sent = StepOutput(ATTEMPT)
    sent.append([0, 1], "ab", 0, 0, (), CALL_PARTS, 0)
    sent.finish(OUTCOME)
    assert sent.parts.after(0) == CALL_PARTS


@pytest.mark.parametrize("parts", [(TextPart("ab"), *CALL_PARTS), (*CALL_PARTS, TextPart("ab"))])
async def test_a_committed_step_has_the_parts_that_were_sent_in_their_order(parts: tuple[Part, ...]) -> None:
    attempt = attempt_of(POOL, descriptor_of("s"))
    attempt.output.append([0, 1], "ab", 0, 0, (), parts, 0)
    attempt.output.finish(OUTCOME)
    entry = commit_request(attempt, "w").entry
    assert ("parts" in entry.output) == (parts[0] == CALL_PARTS[0]), "they are stored only where the message differs"
    received = Cursor(attempt.ref, 2, 2, parts=1)
    outbox = Outbox()
    stored = AlreadyCommitted(entry, attempt.descriptor, b"", pack_ids([0, 1]))
    replay(stored, replace(attempt.call.request, received=received), outbox)
    delta, committed = [event async for event in outbox.events()]
    assert isinstance(delta, Delta)
    assert (delta.text, delta.parts) == ("", PartLog(parts).after(1))
    assert isinstance(committed, Committed)


async def test_a_worker_gets_how_many_units_of_parts_are_here() -> None:
    attempt = attempt_of(POOL, descriptor_of("s"))
    attempt.output.accept(array("I", [5]))
    attempt.output.append([0, 1], "ab", 0, 0, (), (TextPart("ab"), *CALL_PARTS), 0)
    assert resume(attempt, attempt.ref).resume.from_part == 5
    assert start(attempt).start.replay.parts == 5


async def test_a_worker_gets_the_role_of_the_session() -> None:
    attempt = attempt_of(POOL, descriptor_of("s"), role=PoolRole("coder"))
    assert start(attempt).start.role == "coder"


@pytest.mark.parametrize("prompt_lookup", [False, True])
async def test_a_worker_gets_whether_the_role_lets_it_guess(prompt_lookup: bool) -> None:
    attempt = attempt_of(POOL, descriptor_of("s"), role=PoolRole("coder", prompt_lookup=prompt_lookup))
    assert start(attempt).start.prompt_lookup is prompt_lookup


async def test_every_attempt_at_a_step_has_the_same_seed_of_call_ids_and_no_other_step_has_it() -> None:
    requests = [StepRequest(session, step, ()) for session in ("a", "a\0", "b") for step in ("s1", "s2")]
    seeds = [call_seed(request) for request in requests]
    assert len(set(seeds)) == len(seeds)
    attempt = attempt_of(POOL, descriptor_of("s"))
    assert start(attempt).start.call_seed == call_seed(attempt.call.request)
