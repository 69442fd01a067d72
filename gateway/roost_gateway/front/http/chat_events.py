"""The answer of `/v1/chat/completions`: as one body, and as the chunks of a stream. Pure."""

from typing import Any

from roost.contract.events import ArgumentsPart, CallPart, Committed, Part, ReasoningPart, TextPart
from roost_gateway.front.http.completion_events import CompletionEvents, finish_reason_of, usage_of
from roost_gateway.front.http.ids import CHAT, answer_of
from roost_gateway.recognition.conversation import Recognised


def completion_of(model: str, created: int, recognised: Recognised, committed: Committed) -> dict[str, Any]:
    """The whole answer. `model` is the name that the client used, `created` is in seconds since 1970."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
        for call in committed.output.tool_calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": committed.output.content or (None if calls else "")}
    if committed.reasoning:
        message["reasoning_content"] = committed.reasoning
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason_of(committed)}
    head = {"id": answer_of(recognised).id(CHAT), "object": "chat.completion", "created": created, "model": model}
    return {**head, "choices": [choice], "usage": usage_of(committed)}


class ChatEvents(CompletionEvents):
    """The chunks of a chat completion."""

    PREFIX, OBJECT = CHAT, "chat.completion.chunk"
    _has_role = False

    def choice(self, part: Part) -> dict[str, Any]:
        return self._choice(_delta(part), None)

    def end(self, finish_reason: str) -> dict[str, Any]:
        return self._choice({}, finish_reason)

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        if not self._has_role:
            self._has_role = True
            delta = {"role": "assistant", **delta}
        return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"content": part.text}
        case ReasoningPart():
            return {"reasoning_content": part.text}
        case CallPart():
            function = {"name": part.name, "arguments": ""}
            return {"tool_calls": [{"index": part.index, "id": part.id, "type": "function", "function": function}]}
        case ArgumentsPart():
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
