"""`/v1/completions`: its parameters, its answers, and its handler. The prompt is taken as one message of a user.

A session is made of turns, so that text cannot be continued where it stands.
"""

import time
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from roost.contract.events import Committed, Part, TextPart
from roost.contract.messages import Message, MessageRole
from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.completion_events import CompletionEvents, finish_reason_of, usage_of
from roost_gateway.front.http.headers import naming_of
from roost_gateway.front.http.ids import COMPLETION, answer_of
from roost_gateway.front.http.parameters import ParameterTable, read, refused, supported
from roost_gateway.front.http.sampling import COMPLETION_ROWS, CompletionBody
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


class TextEvents(CompletionEvents):
    """The chunks of a text. Reasoning and calls have no place in them."""

    PREFIX, OBJECT = COMPLETION, "text_completion"

    def choice(self, part: Part) -> dict[str, Any] | None:
        return _choice(part.text, None) if isinstance(part, TextPart) else None

    def end(self, finish_reason: str) -> dict[str, Any]:
        return _choice("", finish_reason)


async def create_completion(call: HttpCall) -> None:
    """Answers with a completion, streamed or whole."""
    body, headers = read(PromptBody, COMPLETIONS, call.body)
    call.response_headers |= headers
    conversation = Conversation(
        model=body.model,
        messages=(Message(MessageRole.USER, body.prompt),),
        sampling=body.sampling(body.max_tokens),
        **naming_of(call.headers, call.front.session_headers, body.prompt_cache_key),
    )
    created = int(time.time())
    if body.stream:
        await stream_step(call, conversation, partial(TextEvents, body.model, created, body.options))
    else:
        await whole_step(call, conversation, partial(text_of, body.model, created))


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
