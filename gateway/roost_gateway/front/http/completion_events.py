"""What the streams of `/v1/chat/completions` and `/v1/completions` have in common. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from roost.contract.events import Committed, Delta, Event, FinishReason, Part, Started
from roost_gateway.front.http.errors import Failure
from roost_gateway.front.http.ids import answer_of
from roost_gateway.front.http.parts import StepParts
from roost_gateway.front.http.sampling import StreamOptions
from roost_gateway.front.http.sse import DONE, ServerEvent
from roost_gateway.recognition.conversation import Recognised


def finish_reason_of(committed: Committed) -> str:
    """Why the output ended, in OpenAI's words."""
    return (committed.finish_reason or FinishReason.STOP).value


def usage_of(committed: Committed) -> dict[str, Any]:
    """Token counts. The prompt is all of the context before the output."""
    counts = usage(committed.context_tokens, committed.usage.output_tokens, committed.usage.cached_tokens)
    return {**counts, "completion_tokens_details": {"reasoning_tokens": committed.reasoning_tokens}}


def usage(prompt: int, output: int, cached: int) -> dict[str, Any]:
    """Token counts in OpenAI's form; how many are reasoning is known at the end only."""
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


class CompletionEvents(ABC):
    """Turns the events of one step into chunks."""

    PREFIX = ""
    """Of the answer's id."""
    OBJECT = ""
    """What a chunk is called."""

    def __init__(self, model: str, created: int, options: StreamOptions) -> None:
        self._head: dict[str, Any] = {"object": self.OBJECT, "created": created, "model": model}
        self._options = options
        self._parts = StepParts()
        self._so_far = UsageSoFar(0)

    def begin(self, recognised: Recognised) -> None:
        """Takes the step's name and the log before it."""
        self._head = {"id": answer_of(recognised).id(self.PREFIX), **self._head}
        self._so_far = UsageSoFar(recognised.log_tokens)
        self._parts = StepParts(recognised.match)

    def events(self, event: Event) -> Sequence[ServerEvent]:
        """The chunks for an event; for Committed also the end. Raises Refused: WORKER_FAILED when what was sent is
        void."""
        self._so_far.take(event)
        choices = (self.choice(part) for part in self._parts.of(event))
        events = [self._chunk(choice) for choice in choices if choice is not None]
        if isinstance(event, Committed):
            events += self._finish(event)
        return events

    def failure(self, failure: Failure) -> Sequence[ServerEvent]:
        """An error in the place of a chunk, which OpenAI's clients raise."""
        return [ServerEvent(failure.body)]

    @abstractmethod
    def choice(self, part: Part) -> dict[str, Any] | None:
        """What a chunk says of a part; None where the API has no place for it."""

    @abstractmethod
    def end(self, finish_reason: str) -> dict[str, Any]:
        """What the last chunk says."""

    def _finish(self, committed: Committed) -> Iterator[ServerEvent]:
        yield self._chunk(self.end(finish_reason_of(committed)), usage_of(committed))
        if self._options.include_usage:
            yield ServerEvent({**self._head, "choices": [], "usage": usage_of(committed)})
        yield DONE

    def _chunk(self, choice: dict[str, Any], usage: dict[str, Any] | None = None) -> ServerEvent:
        body = {**self._head, "choices": [choice]}
        if self._options.continuous_usage_stats:
            body["usage"] = usage or self._so_far.body
        return ServerEvent(body)
