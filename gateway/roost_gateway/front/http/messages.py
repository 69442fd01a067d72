"""`/v1/messages` and `/v1/messages/count_tokens`, Anthropic's API."""

from functools import partial

from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.messages_body import COUNT_TOKENS, MESSAGES, CountBody, MessagesBody
from roost_gateway.front.http.messages_conversation import conversation_of
from roost_gateway.front.http.messages_events import MessageEvents, message_of
from roost_gateway.front.http.parameters import read
from roost_gateway.front.http.steps import stream_step, whole_step


async def create_message(call: HttpCall) -> None:
    """Answers with the next message of a conversation."""
    body, ignored = read(MessagesBody, MESSAGES, call.body)
    call.response_headers |= ignored
    conversation = conversation_of(body, call.headers, call.front.session_headers)
    if body.stream:
        await stream_step(call, conversation, partial(MessageEvents, body))
    else:
        await whole_step(call, conversation, partial(message_of, body))


async def count_tokens(call: HttpCall) -> None:
    """Answers with the tokens that a conversation's prompt has, as a worker's tokenizer counts them."""
    body, ignored = read(CountBody, COUNT_TOKENS, call.body)
    call.response_headers |= ignored
    conversation = conversation_of(body, call.headers, call.front.session_headers)
    counted = await call.front.life.counter.count(conversation, call.caller)
    await call.respond({"input_tokens": counted})
