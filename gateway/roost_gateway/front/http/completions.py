"""`/v1/completions`: its parameters, its answers, and its handler. The prompt is taken as one message of a user.

A session is made of turns, so that text cannot be continued where it stands.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from roost.contract.events import Committed, Event, TextPart
from roost.contract.messages import Message, MessageRole
from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.chat_events import UsageSoFar, finish_reason_of, usage_of
from roost_gateway.front.http.errors import Failure
from roost_gateway.front.http.headers import epoch_of, family_of, is_retry, role_of
from roost_gateway.front.http.ids import COMPLETION, answer_of
from roost_gateway.front.http.parameters import ParameterTable, read, refused, supported
from roost_gateway.front.http.parts import StepParts
from roost_gateway.front.http.sampling import COMPLETION_ROWS, CompletionBody, StreamOptions
from roost_gateway.front.http.sse import DONE, ServerEvent
from roost_gateway.front.http.steps import stream_step, whole_step
from roost_gateway.recognition.conversation import Conversation, Recognised

COMPLETIONS = ParameterTable(
    "/v1/completions",
    (
        supported("prompt", "one text, which becomes one message of a user; token ids are refused"),
        *COMPLETION_ROWS,
        refused("n", "send the request n times, each with another `seed`", harmless=(1,)),
        refused("best_of", "send the request several times", harmless=(1,)),
        refused("echo", "put the prompt before the text yourself", harmless=(False,)),
        refused("suffix", "models here write after a text only", harmless=("",)),
        refused("logprobs", "the gRPC API has log-probabilities"),
    ),
)


def _one_text(value: object) -> object:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise PydanticCustomError("prompt", "must be one text; send a request for each, and texts, not token ids")
        return value[0]
    return value


class PromptBody(CompletionBody):
    """The supported parameters of `/v1/completions`."""

    prompt: Annotated[str, BeforeValidator(_one_text)]


def text_of(model: str, created: int, recognised: Recognised, committed: Committed) -> dict[str, Any]:
    """The whole answer. `model` is the name that the client used, `created` is in seconds since 1970."""
    head = {"id": answer_of(recognised).id(COMPLETION), "object": "text_completion", "created": created, "model": model}
    choice = _choice(committed.output.content, finish_reason_of(committed))
    return {**head, "choices": [choice], "usage": usage_of(committed)}


class TextEvents:
    """Turns the events of one step into chunks of text. Reasoning and calls have no place in them."""

    def __init__(self, model: str, created: int, options: StreamOptions) -> None:
        self._head: dict[str, Any] = {"object": "text_completion", "created": created, "model": model}
        self._options = options
        self._parts = StepParts()
        self._so_far = UsageSoFar(0)

    def begin(self, recognised: Recognised) -> None:
        """Takes the step's name and the log before it."""
        self._head = {"id": answer_of(recognised).id(COMPLETION), **self._head}
        self._so_far = UsageSoFar(recognised.log_tokens)

    def events(self, event: Event) -> Sequence[ServerEvent]:
        """The chunks for an event; for Committed also the end. Raises Refused: WORKER_FAILED when what was sent is
        void."""
        self._so_far.take(event)
        events = [self._chunk(part.text) for part in self._parts.of(event) if isinstance(part, TextPart)]
        if isinstance(event, Committed):
            events.append(self._chunk("", finish_reason_of(event)))
            if self._options.include_usage:
                events.append(ServerEvent({**self._head, "choices": [], "usage": usage_of(event)}))
            events.append(DONE)
        return events

    def failure(self, failure: Failure) -> Sequence[ServerEvent]:
        """An error in the place of a chunk."""
        return [ServerEvent(failure.body)]

    def _chunk(self, text: str, finish_reason: str | None = None) -> ServerEvent:
        body = {**self._head, "choices": [_choice(text, finish_reason)]}
        if self._options.continuous_usage_stats:
            body["usage"] = self._so_far.body
        return ServerEvent(body)


async def create_completion(call: HttpCall) -> None:
    """Answers with a completion, streamed or whole."""
    body, headers = read(PromptBody, COMPLETIONS, call.body)
    call.response_headers |= headers
    conversation = Conversation(
        model=body.model,
        messages=(Message(MessageRole.USER, body.prompt),),
        sampling=body.sampling(body.max_tokens),
        family=family_of(call.headers, call.front.session_headers, body.prompt_cache_key),
        is_retry=is_retry(call.headers),
        role=role_of(call.headers),
        epoch=epoch_of(call.headers),
    )
    created = int(time.time())
    if body.stream:
        await stream_step(call, conversation, partial(TextEvents, body.model, created, body.options))
    else:
        await whole_step(call, conversation, partial(text_of, body.model, created))


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
