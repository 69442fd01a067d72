"""What a session's record keeps of a step has the form that it always had, and what identifies a step its bytes."""

import hashlib
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.events import FinishReason
from roost.contract.messages import Format, JsonSchema, Message, MessageRole, Sampling, ToolCall, ToolChoice
from roost.contract.steps import StepRequest
from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
from roost.store import values as stored
from roost.v1 import session_service_pb2 as pb
from roost.wire import format_to_wire, message_to_wire, sampling_to_wire
from roost.wire_steps import step_request_from_wire
from roost_worker.engine.policies import POLICIES

texts = st.text("aé€😀{}\n", max_size=5)
messages = st.builds(
    Message,
    st.sampled_from((MessageRole.USER, MessageRole.TOOL)),
    texts,
    tool_call_id=st.sampled_from(("", "call-1")),
    name=st.sampled_from(("", "grep")),
)
reals = st.none() | st.floats(0, 2, width=32)
samplings = st.builds(
    Sampling,
    temperature=reals,
    top_p=reals,
    presence_penalty=reals,
    top_k=st.none() | st.integers(0, 2**32 - 1),
    seed=st.none() | st.integers(0, 2**64 - 1),
    max_tokens=st.none() | st.integers(1, 100),
    stop=st.lists(texts, max_size=2).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    ignore_eos=st.booleans(),
    logit_bias=st.dictionaries(st.integers(0, 9), st.floats(-1, 1, width=32), max_size=3),
    logprobs=st.none() | st.integers(0, 20),
)
formats: st.SearchStrategy[Format | None] = st.none() | st.sampled_from(
    (JsonSchema('{"type": "object"}'), ToolChoice(), ToolChoice("required", "grep"))  # type: ignore[arg-type]  # a word
)


def sent(step: StepRequest) -> pb.StepRequest:
    """The step as the SDK sends it."""
    return pb.StepRequest(
        session_id=step.session_id,
        step_id=step.step_id,
        messages=map(message_to_wire, step.messages),
        sampling=sampling_to_wire(step.sampling),
        format=None if step.format is None else format_to_wire(step.format),
    )


@given(st.lists(messages, max_size=3), samplings, formats)
def test_a_step_that_is_sent_again_to_a_newer_gateway_has_the_same_digest(
    said: list[Message], sampling: Sampling, constraint: Format | None
) -> None:
    wire = sent(StepRequest("a/b/0", "s1", tuple(said), sampling, constraint))
    content = pb.StepRequest(messages=wire.messages, sampling=wire.sampling)
    if wire.HasField("format"):
        content.format.CopyFrom(wire.format)
    packed = content.SerializeToString(deterministic=True)
    expected = hashlib.blake2b(packed, digest_size=16, person=b"roost.step").digest()
    assert stored.content_digest(step_request_from_wire(wire)) == expected


def test_the_digest_of_a_step() -> None:
    """Bytes that older gateways have written to stores."""
    step = StepRequest(
        "a/b/0", "s1", (Message(MessageRole.USER, "hello"),), Sampling(temperature=0.5, seed=7), JsonSchema("{}")
    )
    assert stored.content_digest(step).hex() == "48346743497fe4ccc008464b3b19b59f"


@given(samplings)
def test_sampling_is_kept_as_protobufs_json(sampling: Sampling) -> None:
    wire = sampling_to_wire(sampling)
    record = stored.sampling_to_record(step_request_from_wire(pb.StepRequest(sampling=wire)).sampling)
    assert record == MessageToDict(wire, preserving_proto_field_name=True)
    assert stored.sampling_from_record(record) == sampling


def test_the_record_of_a_sampling() -> None:
    sampling = Sampling(temperature=0.7, seed=2**63, stop=("x",), logit_bias={5: 1.5}, ignore_eos=True)
    assert stored.sampling_to_record(sampling) == {
        "temperature": 0.7,
        "seed": "9223372036854775808",
        "stop": ["x"],
        "logit_bias": {"5": 1.5},
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    ("constraint", "record"),
    [
        (None, None),
        (JsonSchema("{}"), {"json_schema": "{}"}),
        (ToolChoice(), {"tool_choice": {"mode": "TOOL_CHOICE_MODE_AUTO"}}),
        (
            ToolChoice("required", "grep"),  # type: ignore[arg-type]  # a word
            {"tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED", "name": "grep"}},
        ),
    ],
)
def test_the_record_of_a_format(constraint: Format | None, record: dict[str, Any] | None) -> None:
    assert stored.format_to_record(constraint) == record
    assert stored.format_from_record(record) == constraint


def test_the_record_of_a_message() -> None:
    call = ToolCall("c1", "grep", '{"a": 1}')
    message = Message(MessageRole.ASSISTANT, "so", (call,))
    record = stored.message_to_record(message)
    assert record == {
        "role": "assistant",
        "content": "so",
        "tool_calls": [{"id": "c1", "name": "grep", "arguments": '{"a": 1}'}],
    }
    assert stored.message_from_record({**record, "text": "so<call>", "attempts": []}) == message
    answer = Message(MessageRole.TOOL, "4", tool_call_id="c1", name="grep")
    assert stored.message_to_record(answer) == {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "grep"}
    assert stored.message_from_record({"role": "user", "content": "hello"}) == Message(MessageRole.USER, "hello")


def test_the_record_of_a_finish_reason() -> None:
    assert stored.finish_reason_to_record(FinishReason.TOOL_CALLS) == "FINISH_REASON_TOOL_CALLS"
    assert stored.finish_reason_from_record("FINISH_REASON_STOP") is FinishReason.STOP
    assert stored.finish_reason_from_record(stored.finish_reason_to_record(None)) is None


def test_the_record_of_why_a_step_was_slow_is_small_even_with_the_longest_names() -> None:
    label = "x" * 63
    why = Why(
        wait=Wait(4_294_967.0, 10_000, 10_000, WaitReason.NO_REVISION),
        worker="x" * 49,  # a host's name, cut to 40 characters, and 8 random ones
        place=Place.HOME_EMPTY,
        log_tokens=2**32,
        cached_tokens=2**32,
        rebuilt_tokens=2**32,
        cause=RebuildCause.BLOCK_END,
        eviction=KvEviction(
            2**32, 4_294_967.0, f"{label}/{label}/{'0' * 26}", max(POLICIES, key=len), rebuild_seconds=1e6
        ),
    )
    record = stored.why_to_record(why)
    assert len(record) <= 300
    assert stored.why_from_record(record) == why


def test_entries_of_older_gateways_do_not_say_why() -> None:
    assert stored.why_from_record(None) is None


def test_causes_of_newer_gateways_are_passed_over() -> None:
    record = pb.StepWhy(place=99, cause=99, wait=pb.StepWait(reason=99, milliseconds=1500))  # type: ignore[arg-type]
    why = stored.why_from_record(record.SerializeToString())
    assert why == Why(wait=Wait(1.5))
