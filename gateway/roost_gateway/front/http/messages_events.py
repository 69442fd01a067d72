"""The answer of POST /v1/messages: as the events of a stream, and as one body. Pure."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Event,
    FinishReason,
    Part,
    ReasoningPart,
    Started,
    TextPart,
)
from roost_gateway.front.http.parts import StepParts

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer says of its request. `id` is also the signature of its reasoning, which is accepted back."""

    id: str
    model: str
    """As the client named it."""
    log_tokens: int
    """Tokens of the session's log before the step."""
    shows_reasoning: bool
    """Whether the client has asked for thinking blocks."""
    omits_reasoning: bool = False
    """Whether these are to be without their text."""


class MessageEvents:
    """Turns the events of one step into those of a stream, each with its name in `type`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._parts = StepParts()
        self._started = False
        self._blocks = 0
        self._open = ""
        """Type of the block that has begun and not ended; empty without one."""

    def of(self, event: Event) -> Iterator[JsonObject]:
        """The stream's events for one of the step's. Raises Refused, WORKER_FAILED, when what was sent is void."""
        if isinstance(event, Started) and not self._started:
            yield self._start(_started_usage(self._reply, event))
        for part in self._parts.of(event):
            yield from self._of_part(part)
        if isinstance(event, Committed):
            if not self._started:
                yield self._start(usage_of(event))
            yield from self._stop_block()
            delta = {"stop_reason": stop_reason_of(event), "stop_sequence": None}
            yield {"type": "message_delta", "delta": delta, "usage": usage_of(event)}
            yield {"type": "message_stop"}

    def _start(self, usage: JsonObject) -> JsonObject:
        self._started = True
        return {"type": "message_start", "message": _message(self._reply, [], None, usage)}

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
        if not self._reply.shows_reasoning or not part.text:
            return
        if self._open != "thinking":
            yield from self._start_block({"type": "thinking", "thinking": "", "signature": ""})
        if not self._reply.omits_reasoning:
            yield self._delta({"type": "thinking_delta", "thinking": part.text})

    def _start_block(self, block: JsonObject) -> Iterator[JsonObject]:
        yield from self._stop_block()
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _stop_block(self) -> Iterator[JsonObject]:
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": self._reply.id})
        yield {"type": "content_block_stop", "index": self._blocks}
        self._blocks += 1
        self._open = ""

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}


def message_of(reply: Reply, committed: Committed) -> JsonObject:
    """The body of an answer that is not streamed."""
    content = list[JsonObject]()
    if reply.shows_reasoning and committed.reasoning:
        thinking = "" if reply.omits_reasoning else committed.reasoning
        content.append({"type": "thinking", "thinking": thinking, "signature": reply.id})
    if committed.output.content:
        content.append({"type": "text", "text": committed.output.content})
    for call in committed.output.tool_calls:
        arguments = _input_of(call.arguments_json)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return _message(reply, content, stop_reason_of(committed), usage_of(committed))


def stop_reason_of(committed: Committed) -> str:
    if committed.finish_reason is FinishReason.LENGTH:
        return "max_tokens"
    return "tool_use" if committed.output.tool_calls else "end_turn"


def usage_of(committed: Committed) -> JsonObject:
    """Token counts. The context is split into tokens found in the cache and others."""
    context = committed.head.length - committed.usage.output_tokens
    return _usage(context, committed.usage.cached_tokens, committed.usage.output_tokens)


def _started_usage(reply: Reply, started: Started) -> JsonObject:
    return _usage(reply.log_tokens + started.prompt_tokens, started.cached_tokens, 0)


def _usage(context: int, cached: int, output: int) -> JsonObject:
    return {
        "input_tokens": max(0, context - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": min(context, cached),
        "output_tokens": output,
    }


def _message(reply: Reply, content: list[JsonObject], stop_reason: str | None, usage: JsonObject) -> JsonObject:
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _input_of(arguments_json: str) -> Any:
    """A call's arguments. Numbers that a double cannot hold are kept as text, since JSON has no infinity."""
    return json.loads(arguments_json or "{}", parse_float=_number, parse_constant=str)


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text
