"""The answer of POST /v1/responses: a step's events as those that OpenAI's SDKs and Codex parse."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from roost_gateway.front.http.ids import CALL as CALL_PREFIX
from roost_gateway.front.http.ids import REASONING, RESPONSE, TEXT, AnswerName, name_of
from roost_gateway.front.http.responses_body import ResponsesBody
from roost_gateway.front.http.responses_events import ResponseEvents, response_of
from roost_gateway.recognition.conversation import Match
from step_events import CALL, OTHER_CALL, RECOGNISED, STARTED, committed, delta

CREATED = 1_700_000_000.5
NESTED = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}
BODY = ResponsesBody.model_validate({"input": "hello", "model": "m", "tools": [NESTED]})


def stream(*events: Event) -> list[dict[str, Any]]:
    answer = ResponseEvents(BODY, CREATED)
    answer.begin(RECOGNISED)
    sent = [each for event in events for each in answer.events(event)]
    data: list[dict[str, Any]] = [dict(each.data) for each in sent]  # type: ignore[arg-type]
    assert [each.name for each in sent] == [each["type"] for each in data]
    assert [each["sequence_number"] for each in data] == list(range(len(data)))
    return data


def whole(last: Committed) -> dict[str, Any]:
    return response_of(BODY, CREATED, RECOGNISED, last)


def assembled(sent: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The response that a client puts together of deltas, compared with what the events of ends repeat."""
    created, in_progress, *rest = sent
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == in_progress["response"]
    output, text = list[dict[str, Any]](), ""
    for event in rest[:-1]:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(output)
        if kind == "output_item.added":
            item, text = event["item"], ""
            continue
        if kind != "output_item.done":
            assert event["item_id"] == item["id"]
        if kind.endswith(".delta"):
            text += event["delta"]
        elif kind == "output_item.done":
            assert {**event["item"], "status": ""}.keys() == item.keys()
            output.append(event["item"])
        elif kind.endswith("_part.done"):
            assert event["part"]["text"] == text
        elif kind.endswith(".done"):
            assert event["arguments" if "arguments" in event else "text"] == text
    assert rest[-1]["response"]["output"] == output
    return dict(rest[-1]["response"])


def texts(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Types and texts of a response's items."""
    items = []
    for item in response["output"]:
        match item:
            case {"type": "message", "content": [{"text": text}]}:
                items.append(("message", text))
            case {"type": "reasoning", "summary": [{"text": text}]}:
                items.append(("reasoning", text))
            case {"type": "function_call", "arguments": text}:
                items.append((item["name"], text))
    return items


def test_reasoning_text_and_calls_are_items_in_their_order() -> None:
    sent = stream(
        Queued(1),
        STARTED,
        delta(ReasoningPart("I th"), ReasoningPart("ink.")),
        delta(TextPart("Loo")),
        delta(TextPart("king."), CallPart(0, "c1", "read"), ArgumentsPart(0, '{"pa')),
        delta(ArgumentsPart(0, 'th": "a"}'), CallPart(1, "c2", "list"), ArgumentsPart(1, "{}")),
        committed("Looking.", CALL, OTHER_CALL, reasoning="I think."),
    )
    response = assembled(sent)
    assert texts(response) == [
        ("reasoning", "I think."),
        ("message", "Looking."),
        ("read", '{"path": "a"}'),
        ("list", "{}"),
    ]
    assert (response["status"], sent[-1]["type"]) == ("completed", "response.completed")
    assert [event["type"] for event in sent[2:8]] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


def test_ids_name_session_step_and_place() -> None:
    response = whole(committed("Looking.", CALL, OTHER_CALL, reasoning="hm"))
    assert name_of(response["id"]) == AnswerName(RECOGNISED.session_id, "step")
    ids = [item["id"] for item in response["output"]]
    assert [each.partition("_")[0] for each in (response["id"], *ids)] == [
        RESPONSE,
        REASONING,
        TEXT,
        CALL_PREFIX,
        CALL_PREFIX,
    ]
    assert [name.part for each in ids if (name := name_of(each))] == [0, 0, 0, 1]


def test_a_call_in_a_namespace_has_its_own_name_again() -> None:
    item = whole(committed("", ToolCall("c", "agents__spawn", "{}")))["output"][0]
    assert (item["name"], item["namespace"]) == ("spawn", "agents")
    assert "namespace" not in whole(committed("", CALL))["output"][0]


def test_usage_counts_the_whole_context() -> None:
    usage = whole(replace(committed("a"), reasoning_tokens=3))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (120, 7, 127)
    assert usage["input_tokens_details"]["cached_tokens"] == 90
    assert usage["output_tokens_details"] == {"reasoning_tokens": 3}


def test_an_output_that_met_its_limit_is_incomplete() -> None:
    last = stream(STARTED, delta(TextPart("a")), committed("a", finish=FinishReason.LENGTH))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_step_that_was_committed_before_is_streamed_from_its_commit() -> None:
    last = committed("Looking.", CALL, reasoning="hm")
    assert assembled(stream(last)) == whole(last)
    assert assembled(stream(delta(ReasoningPart("hm")), last)) == whole(last)


def test_a_call_that_broke_off_ends_the_stream() -> None:
    with pytest.raises(Refused):
        stream(STARTED, delta(CallPart(0, "c1", "read"), ArgumentsPart(0, '{"path')), committed("{"))


def test_a_call_that_broke_off_is_text_to_the_client_that_asks_again() -> None:
    answer = ResponseEvents(BODY, CREATED)
    answer.begin(replace(RECOGNISED, match=Match.ATTACHED))
    begun = delta(TextPart("So: "), CallPart(0, "c1", "read"), ArgumentsPart(0, '{"path'), TextPart('{"path'))
    last = committed('So: {"path', OTHER_CALL, finish=FinishReason.LENGTH)
    sent = [dict(each.data) for event in (begun, last) for each in answer.events(event)]  # type: ignore[arg-type]
    assert assembled(sent) == whole(last)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.QUEUE_FULL, "rate_limit_exceeded"),
        (Reason.STEP_TOO_LONG, "context_length_exceeded"),
        (Reason.WORKER_LOST, "worker_lost"),
    ],
)
def test_a_failure_is_a_failed_response_also_before_the_first_event(reason: Reason, code: str) -> None:
    reported = failure(Api.OPENAI, Refused(reason, "no"), "req_1")
    [event] = ResponseEvents(BODY, CREATED).failure(reported)
    assert event.name == event.data["type"] == "response.failed"  # type: ignore[index]
    response = event.data["response"]  # type: ignore[index]
    assert (response["status"], response["error"]["code"]) == ("failed", code)


def detached(*events: Event) -> list[dict[str, Any]]:
    """The stream of a detached step, with its first events."""
    answer = ResponseEvents(BODY.model_copy(update={"background": True}), CREATED)
    answer.begin(RECOGNISED)
    sent = [*answer.queued(), *(each for event in events for each in answer.events(event))]
    return [dict(each.data) for each in sent]  # type: ignore[arg-type]


def test_a_detached_step_is_queued_until_a_worker_begins_it() -> None:
    sent = detached(STARTED, STARTED, delta(TextPart("a")), committed("a"))
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    begun = [(event["type"], event["response"]["status"]) for event in sent[:3]]
    assert begun == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
    ]
    assert [event["type"] for event in sent].count("response.in_progress") == 1
    assert sent[-1]["response"]["background"]
    assert not stream(committed("a"))[-1]["response"]["background"]


def test_a_detached_step_that_was_committed_before_goes_the_same_way() -> None:
    first, queued, *rest = detached(committed("a"))
    assert (first["type"], queued["type"]) == ("response.created", "response.queued")
    assert [event["type"] for event in rest][:: len(rest) - 1] == ["response.in_progress", "response.completed"]


def test_a_cancelled_response_ends_its_stream_as_one_that_failed() -> None:
    answer = ResponseEvents(BODY, CREATED)
    answer.begin(RECOGNISED)
    [event] = answer.cancelled()
    assert event.name == "response.failed"
    response = event.data["response"]  # type: ignore[index]
    assert (response["status"], response["error"]) == ("cancelled", None)


@given(st.text("ab\n", max_size=8), st.text("cd", max_size=5), st.lists(st.integers(1, 9)), st.integers(0, 2))
def test_a_stream_is_the_same_response_however_it_is_cut(text: str, thought: str, cuts: list[int], calls: int) -> None:
    last = committed(text, *(CALL, OTHER_CALL)[:calls], reasoning=thought)
    parts: list[Part] = [ReasoningPart(letter) for letter in thought] + [TextPart(letter) for letter in text]
    for index, call in enumerate(last.output.tool_calls):
        parts += [CallPart(index, call.id, call.name), *(ArgumentsPart(index, each) for each in call.arguments_json)]
    deltas, at = list[Delta](), 0
    for size in cuts:
        deltas.append(delta(*parts[at : at + size]))
        at += size
    assert assembled(stream(STARTED, *deltas, last)) == whole(last)
