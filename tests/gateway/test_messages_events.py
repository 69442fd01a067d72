"""The answer of POST /v1/messages: a step's events as those that Anthropic's SDKs parse."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Delta,
    Event,
    FinishReason,
    Part,
    Queued,
    ReasoningPart,
    TextPart,
)
from roost.contract.messages import ToolCall
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http.errors import Api, failure
from roost_gateway.front.http.ids import OPAQUE, AnswerName, name_of
from roost_gateway.front.http.messages_body import MessagesBody
from roost_gateway.front.http.messages_events import MessageEvents, message_of
from roost_gateway.recognition.conversation import Match
from step_events import CALL, OTHER_CALL, RECOGNISED, STARTED, committed, delta


def asked(**fields: Any) -> MessagesBody:
    turn = {"role": "user", "content": "hello"}
    return MessagesBody.model_validate({"model": "claude-test", "max_tokens": 9, "messages": [turn], **fields})


SILENT = asked()
SHOWN = asked(thinking={"type": "enabled"})
OMITTED = asked(thinking={"type": "adaptive", "display": "omitted"})


def stream(*events: Event, body: MessagesBody = SHOWN) -> list[dict[str, Any]]:
    answer = MessageEvents(body)
    answer.begin(RECOGNISED)
    sent = [each for event in events for each in answer.events(event)]
    assert [each.name for each in sent] == [each.data["type"] for each in sent]  # type: ignore[index]
    return [dict(each.data) for each in sent]  # type: ignore[arg-type]


def whole(last: Committed, body: MessagesBody = SHOWN) -> dict[str, Any]:
    return message_of(body, RECOGNISED, last)


def assembled(sent: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together, checking the order of events on the way."""
    first, *rest = sent
    assert first["type"] == "message_start"
    message, open_block, arguments = first["message"], None, ""
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(message["content"])
                open_block, arguments = dict(event["content_block"]), ""
                message["content"].append(open_block)
            case "content_block_delta":
                assert open_block is not None
                assert event["index"] == len(message["content"]) - 1
                match event["delta"]:
                    case {"type": "text_delta", "text": text}:
                        open_block["text"] += text
                    case {"type": "thinking_delta", "thinking": text}:
                        open_block["thinking"] += text
                    case {"type": "signature_delta", "signature": text}:
                        open_block["signature"] = text
                    case {"type": "input_json_delta", "partial_json": text}:
                        arguments += text
                        open_block["input"] = None
            case "content_block_stop":
                assert open_block is not None
                if open_block["type"] == "tool_use":
                    open_block["input"] = json.loads(arguments or "{}")
                open_block = None
            case "message_delta":
                assert open_block is None
                message.update(event["delta"])
                message["usage"] = event["usage"]
    assert [event["type"] for event in rest[-2:]] == ["message_delta", "message_stop"]
    return message


def test_reasoning_text_and_calls_are_blocks_in_their_order() -> None:
    sent = stream(
        Queued(1),
        STARTED,
        delta(ReasoningPart("I th"), ReasoningPart("ink.")),
        delta(TextPart("Loo")),
        delta(TextPart("king."), CallPart(0, "c1", "read"), ArgumentsPart(0, '{"pa')),
        delta(ArgumentsPart(0, 'th": "a"}'), CallPart(1, "c2", "list"), ArgumentsPart(1, "{}")),
        committed("Looking.", CALL, OTHER_CALL, reasoning="I think."),
    )
    message = assembled(sent)
    assert message["content"] == [
        {"type": "thinking", "thinking": "I think.", "signature": OPAQUE},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
        {"type": "tool_use", "id": "c2", "name": "list", "input": {}},
    ]
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)


def test_usage_splits_the_context_into_cached_tokens_and_others() -> None:
    sent = stream(STARTED, delta(TextPart("a")), replace(committed("a"), reasoning_tokens=3))
    assert sent[0]["message"]["usage"] == {
        "input_tokens": 30,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 90,
        "output_tokens": 0,
    }
    assert sent[-2]["usage"] == {
        **sent[0]["message"]["usage"],
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }


@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH])
def test_the_end_says_why(finish: FinishReason) -> None:
    message = assembled(stream(STARTED, delta(TextPart("a")), committed("a", finish=finish)))
    assert message["stop_reason"] == {"stop": "end_turn", "length": "max_tokens"}[finish]


def test_a_step_that_was_committed_before_is_streamed_from_its_commit() -> None:
    last = committed("Looking.", CALL, reasoning="hm")
    assert assembled(stream(last)) == whole(last)
    assert assembled(stream(delta(ReasoningPart("hm")), last)) == whole(last)


def test_what_the_deltas_lack_comes_with_the_commit() -> None:
    last = committed("Looking.", CALL)
    sent = stream(STARTED, delta(TextPart("Look")), delta(TextPart("ing."), CallPart(0, "c1", "read")), last)
    assert assembled(sent)["content"] == whole(last)["content"]


def test_reasoning_is_sent_to_those_who_ask_for_it() -> None:
    events = STARTED, delta(ReasoningPart("hm"), TextPart("a")), committed("a", reasoning="hm")
    assert [block["type"] for block in assembled(stream(*events, body=SILENT))["content"]] == ["text"]
    assert [block["type"] for block in whole(events[-1], SILENT)["content"]] == ["text"]


def test_claude_codes_omitted_reasoning_is_a_signature_only() -> None:
    last = committed("a", reasoning="hm")
    for message in (
        assembled(stream(STARTED, delta(ReasoningPart("hm"), TextPart("a")), last, body=OMITTED)),
        whole(last, OMITTED),
    ):
        assert message["content"][0] == {"type": "thinking", "thinking": "", "signature": OPAQUE}


def test_an_answer_is_named_after_its_session_and_step() -> None:
    answer = stream(STARTED)[0]["message"]
    assert name_of(answer["id"]) == AnswerName(RECOGNISED.session_id, RECOGNISED.step_id)
    assert answer["model"] == "claude-test"


def test_a_failure_is_an_error_event() -> None:
    reported = failure(Api.ANTHROPIC, Refused(Reason.WORKER_FAILED, "it broke"), "req_1")
    [event] = MessageEvents(SHOWN).failure(reported)
    assert event.name == "error"
    assert event.data == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "it broke"},
        "request_id": "req_1",
    }


@pytest.mark.parametrize("calls", [(), (OTHER_CALL,), (ToolCall("c1", "read", "[]"),)])
def test_a_call_that_broke_off_ends_the_stream(calls: tuple[ToolCall, ...]) -> None:
    with pytest.raises(Refused):
        stream(STARTED, delta(CallPart(0, "c1", "read"), ArgumentsPart(0, '{"path')), committed("{", *calls))


def test_a_call_that_broke_off_is_text_to_the_client_that_asks_again() -> None:
    answer = MessageEvents(SHOWN)
    answer.begin(replace(RECOGNISED, match=Match.ATTACHED))
    begun = delta(TextPart("So: "), CallPart(0, "c1", "read"), ArgumentsPart(0, '{"path'), TextPart('{"path'))
    last = committed('So: {"path', OTHER_CALL, finish=FinishReason.LENGTH)
    sent = [dict(each.data) for event in (begun, last) for each in answer.events(event)]  # type: ignore[arg-type]
    assert assembled(sent) == whole(last)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e999", "1e999"),
        ("Infinity", "Infinity"),
        ("1.50", 1.5),
        ("7" * 5000, "7" * 5000),
        (r'"\ud83d\ude00 \ud800"', "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_arguments_that_no_json_body_can_hold_are_kept_as_far_as_one_can(written: str, read: object) -> None:
    message = whole(committed("", ToolCall("c", "f", f'{{"a": {written}}}')))
    assert message["content"][0]["input"] == {"a": read}
    assert JSONResponse(message).body


@given(st.text("ab\n", max_size=8), st.text("cd", max_size=5), st.lists(st.integers(1, 9)), st.integers(0, 2))
def test_a_stream_is_the_same_message_however_it_is_cut(text: str, thought: str, cuts: list[int], calls: int) -> None:
    last = committed(text, *(CALL, OTHER_CALL)[:calls], reasoning=thought)
    parts: list[Part] = [ReasoningPart(letter) for letter in thought] + [TextPart(letter) for letter in text]
    for index, call in enumerate(last.output.tool_calls):
        parts += [CallPart(index, call.id, call.name), *(ArgumentsPart(index, each) for each in call.arguments_json)]
    deltas, at = list[Delta](), 0
    for size in cuts:
        deltas.append(delta(*parts[at : at + size]))
        at += size
    assert assembled(stream(STARTED, *deltas, last)) == whole(last)
