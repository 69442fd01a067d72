"""A conversation's step in the record of a detached step: a gateway that takes it over remembers of it what the first
would have remembered."""

import json
from dataclasses import replace

import pytest

from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole, Sampling, ToolCall
from roost.contract.steps import Deltas, StepName
from roost.store.conversation_index import IndexEntry
from roost.store.values import content_digest
from roost_gateway.core.begun_step import BegunStep, begun_step, recognised_step
from roost_gateway.recognition.conversation import Conversation, Match, Recognised
from roost_gateway.recognition.turn import turn

SESSION = "default/pool/01hzzzzzzzzzzzzzzzzzzzzzzz"
HISTORY = (
    Message(MessageRole.USER, "hello"),
    Message(MessageRole.ASSISTANT, "Looking.", (ToolCall("c", "read", '{"a": 1}'),)),
    Message(MessageRole.TOOL, "found", tool_call_id="c"),
    Message(MessageRole.USER, "and now?"),
)
OUTPUTS = (Message(MessageRole.ASSISTANT, "Done."), Message(MessageRole.ASSISTANT, ""))


def begun(family: str, units: int) -> BegunStep:
    """A step of a conversation whose session has the first units."""
    sampling = Sampling(top_k=3)
    conversation = Conversation(
        "m", "Be brief.", messages=HISTORY, sampling=sampling, deltas=Deltas.NONE, family=family
    )
    asked = turn(conversation, "t", "p")
    head = Head(12, b"h" * 16, 2) if units else Head()
    start = IndexEntry(SESSION, head, units, asked.root.own, asked.root.wide)
    return BegunStep(asked, start, Recognised(SESSION, asked.step_id, Match.FORKED, head.length, "why"))


@pytest.mark.parametrize("family", ["", "job"])
@pytest.mark.parametrize("units", [0, 2, 3])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_step_that_is_taken_over_is_the_same_step(family: str, units: int, output: Message) -> None:
    first = begun(family, units)
    again = begun_step(first.request, "t", json.loads(json.dumps(first.document())))
    assert again.request == first.request
    assert content_digest(again.request) == content_digest(first.request)
    assert (again.start, again.recognised) == (first.start, first.recognised)
    head = Head(20, b"x" * 16)
    writes = [step.turn.committed(step.start, head, output, 1000) for step in (first, again)]
    assert writes[0] == writes[1]
    assert again.turn.passed(again.start, 1000) == first.turn.passed(first.start, 1000)
    assert again.turn.step_id == first.turn.step_id


def test_a_request_keeps_what_the_session_does_not_have() -> None:
    assert begun("", 2).request.messages == HISTORY[2:]


def test_what_a_step_was_recognised_as_is_known_without_its_request() -> None:
    step = begun("", 2)
    name = StepName(SESSION, step.request.step_id)
    assert recognised_step(name, step.document()) == step.recognised
    other = replace(name, step_id="00")
    assert recognised_step(other, step.document()) == replace(step.recognised, step_id="00")


def test_the_conversations_of_other_tenants_stay_apart() -> None:
    step = begun("", 0)
    other = begun_step(step.request, "u", step.document())
    previous = StepName(SESSION, step.request.step_id)
    assert other.turn.response_key(previous) != step.turn.response_key(previous)
