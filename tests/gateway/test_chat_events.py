"""The answers of both completions, from constructed events of a step."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from http_answers import committed, data_of
from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Delta,
    Event,
    FinishReason,
    Part,
    ReasoningPart,
    Started,
    TextPart,
    Usage,
)
from roost.contract.messages import ToolCall
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http.chat_events import ChatEvents, completion_of
from roost_gateway.front.http.completions import TextEvents
from roost_gateway.front.http.errors import Api, failure
from roost_gateway.front.http.ids import CHAT, answer_of
from roost_gateway.front.http.sampling import StreamOptions
from roost_gateway.front.http.steps import Translator
from roost_gateway.recognition.conversation import Match, Recognised

RECOGNISED = Recognised("team/p:1", "step1", Match.CONTINUED, log_tokens=90)
LOOK = ToolCall("c1", "look", '{"x": 1}')
READ = ToolCall("c2", "read", '{"path": "é"}')


def chunks(translator: Translator, events: Iterable[Event]) -> list[Any]:
    """The data of the stream, parsed; the text of the end as it is."""
    translator.begin(RECOGNISED)
    return [data_of(sent) for event in events for sent in translator.events(event)]


def chat(*events: Event, **options: bool) -> list[Any]:
    return chunks(ChatEvents("m", 7, StreamOptions(**options)), events)


def delta(*parts: Part, offset: int = 0) -> Delta:
    return Delta("raw", [1], offset, 0, parts=parts)


def deltas(sent: list[Any]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in sent if chunk != "[DONE]" and chunk["choices"]]


def test_a_stream_of_text_ends_with_its_reason_and_done() -> None:
    sent = chat(Started("w", 10, 80), delta(TextPart("Hel")), delta(TextPart("lo")), committed("Hello"))
    assert sent[-1] == "[DONE]"
    assert deltas(sent) == [{"role": "assistant", "content": "Hel"}, {"content": "lo"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in sent[:-1]] == [None, None, "stop"]
    assert {(chunk["id"], chunk["object"], chunk["model"], chunk["created"]) for chunk in sent[:-1]} == {
        (answer_of(RECOGNISED).id(CHAT), "chat.completion.chunk", "m", 7)
    }
    assert all("usage" not in chunk for chunk in sent[:-1])


def test_usage_comes_last_when_it_is_asked_for() -> None:
    last = replace(committed("Hello", usage=Usage(10, 2, cached_tokens=80)), reasoning_tokens=1)
    sent = chat(delta(TextPart("Hello")), last, include_usage=True)
    assert sent[-2]["choices"] == []
    assert sent[-2]["usage"] == {
        "prompt_tokens": 100,
        "completion_tokens": 2,
        "total_tokens": 102,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert sent[-1] == "[DONE]"


def test_usage_in_every_chunk_counts_up_for_load_generators() -> None:
    """guidellm."""
    sent = chat(
        Started("w", 10, 80),
        delta(TextPart("a")),
        delta(TextPart("b"), offset=1),
        committed("ab"),
        continuous_usage_stats=True,
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in sent[:-1]] == [1, 2, 2]
    assert [chunk["usage"]["prompt_tokens"] for chunk in sent[:-1]] == [100, 100, 100]


def test_reasoning_and_calls_are_streamed_as_they_come() -> None:
    sent = chat(
        delta(ReasoningPart("Hm."), TextPart("I look.")),
        delta(CallPart(0, "c1", "look"), ArgumentsPart(0, '{"x"')),
        delta(ArgumentsPart(0, ": 1}"), CallPart(1, "c2", "read"), ArgumentsPart(1, READ.arguments_json)),
        committed("I look.", (LOOK, READ), "Hm.", FinishReason.TOOL_CALLS),
    )
    received = deltas(sent)
    assert received[:2] == [{"role": "assistant", "reasoning_content": "Hm."}, {"content": "I look."}]
    assert received[2] == {
        "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]
    }
    assert joined_arguments(received) == {0: LOOK.arguments_json, 1: READ.arguments_json}
    assert sent[-2]["choices"][0]["finish_reason"] == "tool_calls"


def joined_arguments(received: list[dict[str, Any]]) -> dict[int, str]:
    arguments: dict[int, str] = {}
    for entry in (call for delta in received for call in delta.get("tool_calls", ())):
        arguments[entry["index"]] = arguments.get(entry["index"], "") + entry["function"]["arguments"]
    return arguments


def test_what_no_delta_had_comes_with_the_commit() -> None:
    """A step that had been committed before has no deltas."""
    received = deltas(chat(committed("I look.", (LOOK,), "Hm.", FinishReason.TOOL_CALLS)))
    assert received[0]["reasoning_content"] == "Hm."
    assert received[1]["content"] == "I look."
    assert joined_arguments(received) == {0: LOOK.arguments_json}


def test_a_streamed_call_that_is_text_in_the_end_fails_the_stream() -> None:
    with pytest.raises(Refused) as error:
        chat(delta(CallPart(0, "c1", "look")), committed('<call>{"name": "look"'))
    assert error.value.reason is Reason.WORKER_FAILED


@pytest.mark.parametrize("events", [ChatEvents, TextEvents])
def test_a_call_that_broke_off_is_text_to_the_client_that_asks_again(events: type[ChatEvents | TextEvents]) -> None:
    translator = events("m", 7, StreamOptions())
    translator.begin(replace(RECOGNISED, match=Match.ATTACHED))
    begun = Delta("", (), 0, 0, parts=(CallPart(0, "c1", "read"), ArgumentsPart(0, '{"path')))
    sent = [data_of(chunk) for event in (begun, committed('{"path')) for chunk in translator.events(event)]
    assert sent[-1] == "[DONE]"
    assert "c1" not in json.dumps(sent)


def test_an_error_takes_the_place_of_a_chunk() -> None:
    reported = failure(Api.OPENAI, Refused(Reason.NO_WORKER, "none"), "req_1")
    for translator in (ChatEvents("m", 7, StreamOptions()), TextEvents("m", 7, StreamOptions())):
        assert [data_of(event) for event in translator.failure(reported)] == [reported.body]


@pytest.mark.parametrize(
    ("step", "content"), [(committed("Hi"), "Hi"), (committed("", (LOOK,)), None), (committed(""), "")]
)
def test_a_whole_answer(step: Committed, content: str | None) -> None:
    answer = completion_of("m", 7, RECOGNISED, step)
    message = answer["choices"][0]["message"]
    assert message["content"] == content
    assert [call["function"] for call in message.get("tool_calls", ())] == [
        {"name": call.name, "arguments": call.arguments_json} for call in step.output.tool_calls
    ]
    assert "reasoning_content" not in message
    assert json.loads(json.dumps(answer))["object"] == "chat.completion"


def test_reasoning_is_beside_the_content_of_a_whole_answer() -> None:
    answer = completion_of("m", 7, RECOGNISED, committed("Hi", (), "Hm.", FinishReason.LENGTH))
    assert answer["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert answer["choices"][0]["finish_reason"] == "length"


def test_chunks_of_text_leave_reasoning_out() -> None:
    events = [Started("w", 10, 0), delta(ReasoningPart("Hm."), TextPart("Hel")), committed("Hello", (), "Hm.")]
    sent = chunks(TextEvents("m", 7, StreamOptions(include_usage=True)), events)
    assert [chunk["choices"][0]["text"] for chunk in sent[:3]] == ["Hel", "lo", ""]
    assert sent[2]["choices"][0]["finish_reason"] == "stop"
    assert sent[3]["usage"]["total_tokens"] == 102
    assert sent[4] == "[DONE]"
