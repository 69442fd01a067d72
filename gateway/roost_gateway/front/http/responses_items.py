"""The items of an answer of /v1/responses, and the events by which each of them comes. Pure."""

from collections.abc import Iterator
from typing import Any, Protocol

from roost_gateway.front.http.ids import CALL, OPAQUE, REASONING, TEXT

JsonObject = dict[str, Any]
Fields = tuple[str, JsonObject]
"""An event's type, without `response.`, and its fields besides those of every event."""


class OutputItem(Protocol):
    """An item that grows."""

    prefix: str
    """Of its id."""

    def item(self, text: str, status: str) -> JsonObject:
        """The item with so much text, without its id."""
        ...

    def begin(self) -> Iterator[Fields]:
        """The events after `output_item.added`."""
        ...

    def more(self, text: str) -> Fields:
        """The event that adds text."""
        ...

    def end(self, text: str) -> Iterator[Fields]:
        """The events before `output_item.done`; `text` is all of it."""
        ...


class ReasoningItem:
    """Reasoning, all of it as its summary, which is what clients show."""

    prefix = REASONING

    def item(self, text: str, status: str) -> JsonObject:
        summary = [{"type": "summary_text", "text": text}] if text else []
        return {"type": "reasoning", "summary": summary, "encrypted_content": OPAQUE, "status": status}

    def begin(self) -> Iterator[Fields]:
        yield "reasoning_summary_part.added", {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}

    def more(self, text: str) -> Fields:
        return "reasoning_summary_text.delta", {"summary_index": 0, "delta": text}

    def end(self, text: str) -> Iterator[Fields]:
        yield "reasoning_summary_text.done", {"summary_index": 0, "text": text}
        yield "reasoning_summary_part.done", {"summary_index": 0, "part": {"type": "summary_text", "text": text}}


class TextItem:
    """A message."""

    prefix = TEXT

    def item(self, text: str, status: str) -> JsonObject:
        content = [_output_text(text)] if text else []
        return {"type": "message", "role": "assistant", "content": content, "status": status}

    def begin(self) -> Iterator[Fields]:
        yield "content_part.added", {"content_index": 0, "part": _output_text("")}

    def more(self, text: str) -> Fields:
        return "output_text.delta", {"content_index": 0, "delta": text, "logprobs": []}

    def end(self, text: str) -> Iterator[Fields]:
        yield "output_text.done", {"content_index": 0, "text": text, "logprobs": []}
        yield "content_part.done", {"content_index": 0, "part": _output_text(text)}


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class CallItem:
    """A function call."""

    prefix = CALL

    def __init__(self, call_id: str, name: str, namespace: str | None) -> None:
        self._call: JsonObject = {"type": "function_call", "call_id": call_id, "name": name}
        if namespace is not None:
            self._call["namespace"] = namespace

    def item(self, text: str, status: str) -> JsonObject:
        return {**self._call, "arguments": text, "status": status}

    def begin(self) -> Iterator[Fields]:
        yield from ()

    def more(self, text: str) -> Fields:
        return "function_call_arguments.delta", {"delta": text}

    def end(self, text: str) -> Iterator[Fields]:
        yield "function_call_arguments.done", {"name": self._call["name"], "arguments": text}
