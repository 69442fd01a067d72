"""`/v1/chat/completions`, OpenAI's API."""

import time
from functools import partial

from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.chat_body import CHAT, ChatBody
from roost_gateway.front.http.chat_conversation import conversation_of
from roost_gateway.front.http.chat_events import ChatEvents, completion_of
from roost_gateway.front.http.parameters import read
from roost_gateway.front.http.steps import stream_step, whole_step


async def create_chat_completion(call: HttpCall) -> None:
    """Answers with a completion, streamed or whole."""
    body, headers = read(ChatBody, CHAT, call.body)
    call.response_headers |= headers
    conversation = conversation_of(body, call.headers, call.front.session_headers)
    created = int(time.time())
    if body.stream:
        await stream_step(call, conversation, partial(ChatEvents, body.model, created, body.options))
    else:
        await whole_step(call, conversation, partial(completion_of, body.model, created))
