"""The answer of POST /v1/responses: as the events of a stream, and as one body. Pure."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
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
from roost_gateway.front.http.ids import RESPONSE, answer_of
from roost_gateway.front.http.parts import StepParts
from roost_gateway.front.http.responses_body import ResponsesBody, joined
from roost_gateway.front.http.responses_items import CallItem, Fields, JsonObject, OutputItem, ReasoningItem, TextItem
from roost_gateway.front.http.sse import ServerEvent
from roost_gateway.recognition.conversation import Recognised


class ResponseEvents:
    """Makes the events of a stream of one step's: the `Translator` of this API."""

    def __init__(self, body: ResponsesBody, created: float) -> None:
        """`created` is in seconds since 1970."""
        self._body = body
        self._created = created
        self._names = {joined(namespace, tool.name): (tool.name, namespace) for namespace, tool in body.functions()}
        self._parts = StepParts()
        self._recognised: Recognised | None = None
        self._sent = 0
        self._is_queued = False
        """Whether the last event says that the step waits."""
        self._output: list[JsonObject] = []
        """Items that have ended."""
        self._numbers = Counter[str]()
        """Items so far, by their prefix."""
        self._open: OutputItem | None = None
        self._id = ""
        self._text = ""
        """Id and text so far of the open item."""

    def begin(self, recognised: Recognised) -> None:
        self._recognised = recognised
        self._parts = StepParts(recognised.match)

    @property
    def has_begun(self) -> bool:
        """Whether it has returned an event."""
        return self._sent > 0

    def queued(self) -> list[ServerEvent]:
        """The events with which the stream of a detached step begins, whatever becomes of the step."""
        self._is_queued = True
        response = self.response("queued")
        return [self._event(kind, {"response": response}) for kind in ("created", "queued")]

    def events(self, event: Event) -> list[ServerEvent]:
        """Raises Refused, WORKER_FAILED, when what was returned earlier is void."""
        return [self._event(kind, fields) for kind, fields in self._of(event)]

    def failure(self, failure: Failure) -> list[ServerEvent]:
        return [self._event("failed", {"response": self.failed(failure)})]

    def failed(self, failure: Failure) -> JsonObject:
        """The response that has failed."""
        error = failure.body["error"]
        code = "rate_limit_exceeded" if failure.status == 429 else error["code"]
        return self.response("failed", error={"code": code, "message": error["message"]})

    def cancelled(self) -> list[ServerEvent]:
        """The events that end the stream of a step that was cancelled. The API has none of its own for that."""
        return [self._event("failed", {"response": self.response("cancelled")})]

    def _event(self, kind: str, fields: JsonObject) -> ServerEvent:
        name = f"response.{kind}"
        data = {"type": name, "sequence_number": self._sent, **fields}
        self._sent += 1
        return ServerEvent(data, name)

    def _of(self, event: Event) -> Iterator[Fields]:
        if isinstance(event, Started | Delta | Committed):
            yield from self._begin()
        for part in self._parts.of(event):
            yield from self._of_part(part)
        if isinstance(event, Committed):
            yield from self._end_item()
            status = "incomplete" if event.finish_reason is FinishReason.LENGTH else "completed"
            reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
            yield status, {"response": self.response(status, incomplete_details=reason, usage=usage_of(event))}

    def _begin(self) -> Iterator[Fields]:
        if self._sent and not self._is_queued:
            return
        kinds = ("in_progress",) if self._is_queued else ("created", "in_progress")
        self._is_queued = False
        yield from ((kind, {"response": self.response("in_progress")}) for kind in kinds)

    def _of_part(self, part: Part) -> Iterator[Fields]:
        match part:
            case ReasoningPart() if part.text:
                if not isinstance(self._open, ReasoningItem):
                    yield from self._begin_item(ReasoningItem())
                yield self._more(part.text)
            case TextPart() if part.text:
                if not isinstance(self._open, TextItem):
                    yield from self._begin_item(TextItem())
                yield self._more(part.text)
            case CallPart():
                name, namespace = self._names.get(part.name, (part.name, None))
                yield from self._begin_item(CallItem(part.id, name, namespace))
            case ArgumentsPart() if part.text:
                yield self._more(part.text)

    def _begin_item(self, item: OutputItem) -> Iterator[Fields]:
        yield from self._end_item()
        assert self._recognised is not None, "begin comes first"
        name = replace(answer_of(self._recognised), part=self._numbers[item.prefix])
        self._numbers[item.prefix] += 1
        self._open, self._id, self._text = item, name.id(item.prefix), ""
        added = {"id": self._id, **item.item("", "in_progress")}
        yield "output_item.added", {"output_index": len(self._output), "item": added}
        yield from (self._placed(fields) for fields in item.begin())

    def _more(self, text: str) -> Fields:
        assert self._open is not None, "a part begins before it grows"
        self._text += text
        return self._placed(self._open.more(text))

    def _end_item(self) -> Iterator[Fields]:
        if self._open is None:
            return
        yield from (self._placed(fields) for fields in self._open.end(self._text))
        done = {"id": self._id, **self._open.item(self._text, "completed")}
        yield "output_item.done", {"output_index": len(self._output), "item": done}
        self._output.append(done)
        self._open = None

    def _placed(self, fields: Fields) -> Fields:
        kind, others = fields
        return kind, {"item_id": self._id, "output_index": len(self._output), **others}

    def response(self, status: str, **changes: Any) -> JsonObject:
        """The response as it stands."""
        body, recognised = self._body, self._recognised
        return {
            "id": answer_of(recognised).id(RESPONSE) if recognised is not None else f"{RESPONSE}_none",
            "object": "response",
            "created_at": int(self._created),
            "status": status,
            "background": bool(body.background),
            "conversation": None if body.conversation is None else {"id": body.conversation.id},
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [*self._output],
            "parallel_tool_calls": True,
            "previous_response_id": body.previous_response_id,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
            **changes,
        }


def response_of(body: ResponsesBody, created: float, recognised: Recognised, committed: Committed) -> JsonObject:
    """The body of an answer that is not streamed: the last of its events has it."""
    answer = ResponseEvents(body, created)
    answer.begin(recognised)
    *_, last = answer.events(committed)
    assert not isinstance(last.data, str), "every event is an object"
    return dict(last.data["response"])


def usage_of(committed: Committed) -> JsonObject:
    """Token counts. The input is all of the context before the output."""
    context, output = committed.context_tokens, committed.usage.output_tokens
    return {
        "input_tokens": context,
        "input_tokens_details": {"cached_tokens": min(context, committed.usage.cached_tokens), "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": committed.reasoning_tokens},
        "total_tokens": context + output,
    }
