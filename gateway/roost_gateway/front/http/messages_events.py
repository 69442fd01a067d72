"""The answer of POST /v1/messages: as the events of a stream, and as one body. Pure."""

import json
import math
from collections.abc import Iterator
from typing import Any

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
)
from roost_gateway.front.http.errors import Failure
from roost_gateway.front.http.ids import MESSAGE, OPAQUE, answer_of
from roost_gateway.front.http.messages_body import MessagesBody
from roost_gateway.front.http.parts import StepParts
from roost_gateway.front.http.sse import ServerEvent
from roost_gateway.recognition.conversation import Recognised

JsonObject = dict[str, Any]
_MOST_DIGITS = 4000
"""Python refuses to read longer whole numbers."""


class MessageEvents:
    """Makes the events of a stream of one step's: the `Translator` of this API."""

    def __init__(self, body: MessagesBody) -> None:
        self._body = body
        self._parts = StepParts()
        self._recognised: Recognised | None = None
        self._started = False
        self._blocks = 0
        self._open = ""
        """Type of the block that has begun and not ended; empty without one."""

    def begin(self, recognised: Recognised) -> None:
        self._recognised = recognised
        self._parts = StepParts(recognised.match)

    def events(self, event: Event) -> list[ServerEvent]:
        """Raises Refused, WORKER_FAILED, when what was returned earlier is void."""
        assert self._recognised is not None, "begin comes first"
        return [ServerEvent(data, data["type"]) for data in self._of(event, self._recognised)]

    def failure(self, failure: Failure) -> list[ServerEvent]:
        return [ServerEvent(failure.body, "error")]

    def _of(self, event: Event, recognised: Recognised) -> Iterator[JsonObject]:
        if isinstance(event, Started | Delta | Committed) and not self._started:
            self._started = True
            usage = _first_usage(event, recognised.log_tokens)
            yield {"type": "message_start", "message": _message(self._body, recognised, usage)}
        for part in self._parts.of(event):
            yield from self._of_part(part)
        if isinstance(event, Committed):
            yield from self._stop_block()
            yield {"type": "message_delta", "delta": _end_of(event), "usage": usage_of(event)}
            yield {"type": "message_stop"}

    def _of_part(self, part: Part) -> Iterator[JsonObject]:
        match part:
            case ReasoningPart():
                yield from self._of_reasoning(part)
            case TextPart() if part.text:
                if self._open != "text":
                    yield from self._start_block({"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": part.text})
            case CallPart():
                yield from self._start_block({"type": "tool_use", "id": part.id, "name": part.name, "input": {}})
            case ArgumentsPart() if part.text:
                yield self._delta({"type": "input_json_delta", "partial_json": part.text})

    def _of_reasoning(self, part: ReasoningPart) -> Iterator[JsonObject]:
        if not self._body.shows_reasoning or not part.text:
            return
        if self._open != "thinking":
            yield from self._start_block({"type": "thinking", "thinking": "", "signature": ""})
        if not self._body.omits_reasoning:
            yield self._delta({"type": "thinking_delta", "thinking": part.text})

    def _start_block(self, block: JsonObject) -> Iterator[JsonObject]:
        yield from self._stop_block()
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _stop_block(self) -> Iterator[JsonObject]:
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": OPAQUE})
        yield {"type": "content_block_stop", "index": self._blocks}
        self._blocks += 1
        self._open = ""

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}


def message_of(body: MessagesBody, recognised: Recognised, committed: Committed) -> JsonObject:
    """The body of an answer that is not streamed."""
    content = list[JsonObject]()
    if body.shows_reasoning and committed.reasoning:
        thinking = "" if body.omits_reasoning else committed.reasoning
        content.append({"type": "thinking", "thinking": thinking, "signature": OPAQUE})
    if committed.output.content:
        content.append({"type": "text", "text": committed.output.content})
    for call in committed.output.tool_calls:
        arguments = _input_of(call.arguments_json)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return {**_message(body, recognised, usage_of(committed)), "content": content, **_end_of(committed)}


def _end_of(committed: Committed) -> JsonObject:
    """Why the output ended."""
    return {"stop_reason": stop_reason_of(committed), "stop_sequence": committed.stop_string or None}


def stop_reason_of(committed: Committed) -> str:
    if committed.finish_reason is FinishReason.LENGTH:
        return "max_tokens"
    if committed.output.tool_calls:
        return "tool_use"
    return "stop_sequence" if committed.stop_string else "end_turn"


def usage_of(committed: Committed) -> JsonObject:
    """Token counts. The context is split into tokens found in the cache and others."""
    usage = _usage(committed.context_tokens, committed.usage.cached_tokens, committed.usage.output_tokens)
    return {**usage, "output_tokens_details": {"thinking_tokens": committed.reasoning_tokens}}


def _first_usage(event: Started | Delta | Committed, log_tokens: int) -> JsonObject:
    """Token counts as far as they are known at the beginning; those of a repeated step come at its end."""
    match event:
        case Started():
            return _usage(log_tokens + event.prompt_tokens, event.cached_tokens, 0)
        case Committed():
            return usage_of(event)
    return _usage(log_tokens, 0, 0)


def _usage(context: int, cached: int, output: int) -> JsonObject:
    return {
        "input_tokens": max(0, context - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": min(context, cached),
        "output_tokens": output,
    }


def _message(body: MessagesBody, recognised: Recognised, usage: JsonObject) -> JsonObject:
    """A message before its first block."""
    return {
        "id": answer_of(recognised).id(MESSAGE),
        "type": "message",
        "role": "assistant",
        "model": body.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _input_of(arguments_json: str) -> Any:
    """A call's arguments as the body can hold them: numbers that no client could read stay text, and halves of
    characters are replaced."""
    text = arguments_json or "{}"
    value = json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=str)
    if "\\ud" not in text.lower():
        return value
    written = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    return json.loads(written.decode("utf-16-le", "replace"))


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= _MOST_DIGITS else text


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text
