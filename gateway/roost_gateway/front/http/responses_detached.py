"""Responses with `background: true`, whose steps run without their clients: begun, shown, and streamed from any event
on."""

import asyncio
from contextlib import aclosing

from roost.contract.refused import Refused, invalid
from roost.contract.steps import StepName
from roost.store.detached import DetachedProgress, DetachedState
from roost_gateway.core.detached import Detached
from roost_gateway.core.logged_steps import logged_steps, no_such_response
from roost_gateway.front.http.calls import ClientLeftError, HttpCall
from roost_gateway.front.http.errors import Failure, failure
from roost_gateway.front.http.headers import recognition_headers
from roost_gateway.front.http.ids import RESPONSE, answer_of
from roost_gateway.front.http.responses_body import ResponsesBody, echo_of, echoed
from roost_gateway.front.http.responses_events import ResponseEvents, response_of
from roost_gateway.front.http.responses_log import committed_of
from roost_gateway.front.http.sse import EventStream, ServerEvent
from roost_gateway.front.http.steps import attend
from roost_gateway.recognition.conversation import Conversation


def check_detached(body: ResponsesBody) -> None:
    """Raises Refused: INVALID_REQUEST when the body asks for a response that is kept nowhere."""
    if (body.model_extra or {}).get("store") is False:
        raise invalid([("store", "must not be false beside `background`, since the response is fetched later")])


async def create_detached(call: HttpCall, body: ResponsesBody, conversation: Conversation) -> None:
    """Begins a response, and answers with how it stands, or with its stream, whose end does not end the step."""
    steps = call.front.life.detached
    recognised = await steps.start(conversation, call.caller, echo_of(body), is_streamed=bool(body.stream))
    call.response_headers |= recognition_headers(recognised)
    name = answer_of(recognised).step
    detached = await steps.find(name, call.caller)
    if detached is None:
        raise no_such_response()
    if body.stream:
        await stream_detached(call, name, detached)
    else:
        await show_detached(call, name, detached, await steps.progress(name, call.caller))


async def show_detached(call: HttpCall, name: StepName, detached: Detached, progress: DetachedProgress) -> None:
    """Answers with a response as it stands. Raises Refused: SESSION_NOT_FOUND when it went with its session."""
    if progress.state is DetachedState.COMMITTED:
        step = (await logged_steps(call.front.life.gateway, call.caller, [name]))[name]
        body = response_of(_body(detached), detached.created, detached.recognised, committed_of(step))
    elif progress.state is DetachedState.FAILED:
        body = _answer(detached).failed(_failure(call, progress))
    else:
        body = _answer(detached).response(progress.state.value)
    await call.respond(body)


async def stream_detached(call: HttpCall, name: StepName, detached: Detached, after: int = -1) -> None:
    """Answers with the events of a response whose number is above `after`.

    A stream that ends tidily is whole, whatever became of the response. One that this gateway cannot go on with breaks
    within its body, and its client resumes it. Raises Refused: INVALID_REQUEST when no events are kept,
    SESSION_NOT_FOUND when the response went with its session.
    """
    if not detached.is_streamed:
        response_id = answer_of(detached.recognised).id(RESPONSE)
        raise invalid([("stream", f"is for responses that were created with it; get {response_id} without stream")])
    stream = EventStream(call.send, call.response_headers)
    try:
        await attend(call, _DetachedStream(call, stream, after).run(name, detached), stream)
    except ClientLeftError:
        return  # it may come back
    except (Exception, asyncio.CancelledError) as error:
        if not stream.is_started:
            raise
        call.failed(error)


class _DetachedStream:
    def __init__(self, call: HttpCall, stream: EventStream, after: int) -> None:
        self._call, self._stream, self._after = call, stream, after

    async def run(self, name: StepName, detached: Detached) -> None:
        call, answer = self._call, _answer(detached)
        async with aclosing(call.front.life.detached.follow(name, call.caller)) as followed:
            async for progress in followed:
                if not answer.has_begun:
                    if progress.state is DetachedState.COMMITTED:
                        await logged_steps(call.front.life.gateway, call.caller, [name])
                    await self._write(answer.queued())
                try:
                    for event in progress.events:
                        await self._write(answer.events(event))
                    await self._write(_last_events(call, answer, progress))
                except Refused as void:
                    await self._write(answer.failure(call.failed(void)))
                    break
        await self._stream.finish()

    async def _write(self, events: list[ServerEvent]) -> None:
        await self._stream.write(event for event in events if _number(event) > self._after)


def _last_events(call: HttpCall, answer: ResponseEvents, progress: DetachedProgress) -> list[ServerEvent]:
    """The events that end the stream of a step that came to nothing."""
    if progress.state is DetachedState.FAILED:
        return answer.failure(_failure(call, progress))
    return answer.cancelled() if progress.state is DetachedState.CANCELLED else []


def _number(event: ServerEvent) -> int:
    assert not isinstance(event.data, str), "every event is an object"
    return int(event.data["sequence_number"])


def _answer(detached: Detached) -> ResponseEvents:
    answer = ResponseEvents(_body(detached), detached.created)
    answer.begin(detached.recognised)
    return answer


def _body(detached: Detached) -> ResponsesBody:
    return echoed({**detached.echo, "background": True})


def _failure(call: HttpCall, progress: DetachedProgress) -> Failure:
    assert progress.failure is not None, "a step that has failed has a reason"
    return failure(call.api, Refused(progress.failure.reason, progress.failure.message), call.request_id)
