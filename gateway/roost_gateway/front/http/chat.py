"""`/v1/chat/completions`: its parameters and its handler."""

import time
from typing import Any

from roost.contract.events import Committed
from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.chat_request import ChatBody, conversation_of
from roost_gateway.front.http.chat_response import ChatEvents, completion_of
from roost_gateway.front.http.parameters import ParameterTable, ignored, read, refused, supported
from roost_gateway.front.http.sampling import COMPLETION_ROWS
from roost_gateway.front.http.steps import stream_step, whole_step
from roost_gateway.recognition.conversation import Recognised

CHAT = ParameterTable(
    "/v1/chat/completions",
    (
        supported(
            "messages", "text, calls and results; blocks of text are joined; images, audio and files are refused"
        ),
        supported(
            "tools", "type `function`; `strict` is not needed: arguments are constrained wherever the model's are"
        ),
        supported("tool_choice", "`auto`, `none`, `required`, or a named function"),
        supported("response_format", "`text`, `json_object`, `json_schema`; beside tools only with tool_choice `none`"),
        supported("max_completion_tokens", "counts before `max_tokens`"),
        *COMPLETION_ROWS,
        ignored("parallel_tool_calls", "with `false`, too, a reply may have several calls"),
        ignored("reasoning_effort", "the model reasons as its template says"),
        ignored("prediction", "it only makes replies faster"),
        ignored("verbosity", "say it in the prompt"),
        refused("n", "send the request n times: equal openings are sessions of their own", harmless=(1,)),
        refused("logprobs", "the gRPC API has log-probabilities", harmless=(False,)),
        refused("top_logprobs", "the gRPC API has log-probabilities", harmless=(0,)),
        refused("functions", "send them as `tools`", harmless=([],)),
        refused("function_call", "send `tool_choice`", harmless=("auto", "none")),
        refused("modalities", "replies are text", harmless=(["text"],)),
        refused("audio", "replies are text"),
        refused("web_search_options", "give the model a tool that searches"),
    ),
)


async def create_chat_completion(call: HttpCall) -> None:
    """Answers with a completion, streamed or whole."""
    body, headers = read(ChatBody, CHAT, call.body)
    call.response_headers |= headers
    conversation = conversation_of(body, call.headers, call.front.session_headers)
    created = int(time.time())
    if body.stream:
        await stream_step(call, conversation, lambda: ChatEvents(body.model, created, body.options))
        return

    def answer(recognised: Recognised, committed: Committed) -> dict[str, Any]:
        return completion_of(recognised, committed, body.model, created)

    await whole_step(call, conversation, answer)
