"""The answer of `/v1/chat/completions`: as one body, and as the chunks of a stream. Pure."""

from collections.abc import Iterator, Sequence
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
from roost_gateway.front.http.parts import StepParts
from roost_gateway.front.http.sampling import StreamOptions
from roost_gateway.front.http.sse import DONE, ServerEvent
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
    head = {"id": f"chatcmpl-{recognised.step_id}", "object": "chat.completion", "created": created, "model": model}
    return {**head, "choices": [choice], "usage": usage_of(committed)}


def finish_reason_of(committed: Committed) -> str:
    """Why the output ended, in OpenAI's words."""
    return (committed.finish_reason or FinishReason.STOP).value


def usage_of(committed: Committed) -> dict[str, Any]:
    """Token counts. The prompt is all of the context before the output."""
    output = committed.usage.output_tokens
    return usage(committed.head.length - output, output, committed.usage.cached_tokens)


def usage(prompt: int, output: int, cached: int) -> dict[str, Any]:
    """Token counts in OpenAI's form."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return {**counts, "prompt_tokens_details": {"cached_tokens": min(cached, prompt)}}


class UsageSoFar:
    """Token counts of a step that runs."""

    def __init__(self, log_tokens: int) -> None:
        self._log, self._prompt, self._cached, self._output = log_tokens, 0, 0, 0

    def take(self, event: Event) -> None:
        """Counts an event."""
        if isinstance(event, Started):
            self._prompt, self._cached = event.prompt_tokens, event.cached_tokens
        elif isinstance(event, Delta):
            self._output = event.token_offset + len(event.token_ids)

    @property
    def body(self) -> dict[str, Any]:
        """The counts in OpenAI's form."""
        return usage(self._log + self._prompt, self._output, self._cached)


class ChatEvents:
    """Turns the events of one step into chunks."""

    def __init__(self, model: str, created: int, options: StreamOptions) -> None:
        self._head = {"object": "chat.completion.chunk", "created": created, "model": model}
        self._options = options
        self._parts = StepParts()
        self._so_far = UsageSoFar(0)
        self._has_role = False

    def begin(self, recognised: Recognised) -> None:
        """Takes the step's name and the log before it."""
        self._head = {"id": f"chatcmpl-{recognised.step_id}", **self._head}
        self._so_far = UsageSoFar(recognised.log_tokens)
        self._parts = StepParts(recognised.match)

    def events(self, event: Event) -> Sequence[ServerEvent]:
        """The chunks for an event; for Committed also the end. Raises Refused: WORKER_FAILED when what was sent is
        void."""
        self._so_far.take(event)
        events = [self._chunk(_delta(part)) for part in self._parts.of(event)]
        if isinstance(event, Committed):
            events += self._end(event)
        return events

    def failure(self, failure: Failure) -> Sequence[ServerEvent]:
        """An error in a place of a chunk, which OpenAI's clients raise."""
        return [ServerEvent(failure.body)]

    def _end(self, committed: Committed) -> Iterator[ServerEvent]:
        yield self._chunk({}, finish_reason_of(committed), usage_of(committed))
        if self._options.include_usage:
            yield ServerEvent({**self._head, "choices": [], "usage": usage_of(committed)})
        yield DONE

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, usage: dict[str, Any] | None = None
    ) -> ServerEvent:
        if not self._has_role:
            self._has_role = True
            delta = {"role": "assistant", **delta}
        body = {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
        if self._options.continuous_usage_stats:
            body["usage"] = usage or self._so_far.body
        return ServerEvent(body)


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
