"""`/v1/responses`, OpenAI's API: new answers, and those that have been given."""

import time
from dataclasses import replace
from functools import partial

from starlette.datastructures import QueryParams

from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost.contract.sessions import LoggedStep
from roost.contract.steps import StepName
from roost.store.kept_conversations import KeptConversation
from roost_gateway.core.kept_conversations import is_id
from roost_gateway.core.logged_steps import logged_steps
from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.headers import is_retry
from roost_gateway.front.http.ids import name_of
from roost_gateway.front.http.parameters import read
from roost_gateway.front.http.responses_body import RESPONSES, ResponsesBody
from roost_gateway.front.http.responses_conversation import Log, conversation_of, references_of
from roost_gateway.front.http.responses_detached import (
    check_detached,
    create_detached,
    show_detached,
    stream_detached,
)
from roost_gateway.front.http.responses_events import ResponseEvents, response_of
from roost_gateway.front.http.responses_log import committed_of
from roost_gateway.front.http.steps import stream_step, whole_step
from roost_gateway.recognition.conversation import Conversation, Match, Recognised


async def create_response(call: HttpCall) -> None:
    """Answers with the next response of a conversation."""
    body, headers = read(ResponsesBody, RESPONSES, call.body)
    call.response_headers |= headers
    if body.background:
        check_detached(body)
    log = await logged_steps(call.front.life.gateway, call.caller, [name.step for name in references_of(body)])
    conversation = await _conversation(call, body, log)
    created = time.time()
    if body.background:
        await create_detached(call, body, conversation)
    elif body.stream:
        await stream_step(call, conversation, partial(ResponseEvents, body, created))
    else:
        await whole_step(call, conversation, partial(response_of, body, created))


async def _conversation(call: HttpCall, body: ResponsesBody, log: Log) -> Conversation:
    """The conversation that a request continues. If it was created here, it has gone on since the client's first try:
    a retry of its last step is recognised as that step."""
    name, further, conversations = body.conversation, call.front.session_headers, call.conversations
    if name is None or not is_id(name.id):
        return conversation_of(body, log, call.headers, further)
    kept = await conversations.kept.get(name.id, call.caller)
    if is_retry(call.headers) and kept.former is not None:
        before = conversation_of(body, log, call.headers, further, replace(kept, next=kept.former))
        if await _is_last_step(call, before, kept):
            return before
    return conversation_of(body, log, call.headers, further, kept)


async def _is_last_step(call: HttpCall, asked: Conversation, kept: KeptConversation) -> bool:
    """Whether a conversation's last step is the one that is asked for."""
    try:
        return await call.conversations.step_id(asked, call.caller) == kept.next.step_id
    except Refused as error:
        if error.reason is not Reason.SESSION_NOT_FOUND:  # as when the session before the last has expired
            raise
        return False


async def get_response(call: HttpCall) -> None:
    """Answers with a response as it stands, or with its stream. Raises Refused: SESSION_NOT_FOUND, INVALID_REQUEST."""
    name, query = _named(call), QueryParams(call.scope["query_string"])
    after, steps = _starting_after(query), call.front.life.detached
    detached = await steps.find(name, call.caller)
    if detached is not None and query.get("stream") == "true":
        await stream_detached(call, name, detached, after)
    elif detached is not None:
        await show_detached(call, name, detached, await steps.progress(name, call.caller))
    else:
        await _show_given(call, name, is_streamed=query.get("stream") == "true")


async def cancel_response(call: HttpCall) -> None:
    """Ends a response with `background`, and answers with it. Raises Refused: SESSION_NOT_FOUND, INVALID_REQUEST."""
    name, steps = _named(call), call.front.life.detached
    detached = await steps.find(name, call.caller)
    if detached is None:
        await _given(call, name)
        raise invalid([("response_id", "is of a response without `background`; close its connection to cancel it")])
    await show_detached(call, name, detached, await steps.cancel(name, call.caller))


async def delete_response(call: HttpCall) -> None:
    """Deletes the session of its latest response, and so all its responses; of a detached response that is not
    committed, only that. Raises Refused: SESSION_NOT_FOUND; INVALID_REQUEST for an earlier response, since later ones
    hold it."""
    name, steps, gateway = _named(call), call.front.life.detached, call.front.life.gateway
    is_detached = await steps.find(name, call.caller) is not None
    if not is_detached or not await steps.discard(name, call.caller):
        step, session = await _given(call, name), await gateway.get(name.session_id, call.caller)
        if session.head != step.head:
            raise invalid([("response_id", "later responses continue this one; delete the latest, and so all of them")])
        await gateway.delete(name.session_id, call.caller)
        await steps.forget(name)
    await call.respond({"id": call.scope["path_params"]["id"], "object": "response", "deleted": True})


async def _show_given(call: HttpCall, name: StepName, *, is_streamed: bool) -> None:
    step, session = await _given(call, name), await call.front.life.gateway.get(name.session_id, call.caller)
    if is_streamed:
        raise invalid([("stream", "is for responses with `background`; send the request again to stream another one")])
    body = ResponsesBody(input=[], model=session.model)
    recognised = Recognised(name.session_id, name.step_id, Match.ATTACHED, log_tokens=0)
    created = step.commit_time.timestamp() if step.commit_time is not None else 0.0
    await call.respond(response_of(body, created, recognised, committed_of(step)))


async def _given(call: HttpCall, name: StepName) -> LoggedStep:
    """The committed step of a response. Raises Refused: SESSION_NOT_FOUND."""
    return (await logged_steps(call.front.life.gateway, call.caller, [name]))[name]


def _named(call: HttpCall) -> StepName:
    """The step of the response in the path. Raises Refused: SESSION_NOT_FOUND for an id that no response has."""
    text = call.scope["path_params"]["id"]
    name = name_of(text)
    if name is None or name.part is not None:
        raise Refused(Reason.SESSION_NOT_FOUND, f"there is no response {text[:200]!r}")
    return name.step


def _starting_after(query: QueryParams) -> int:
    """The number of the last event that the client has; -1 when it has none."""
    text = query.get("starting_after", "")
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise invalid([("starting_after", "must be the sequence_number of an event")])
    return int(text) if text else -1
