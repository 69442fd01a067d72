"""Runs a conversation's step for a call: as a stream of events, or as one whole response."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from roost.contract.events import Committed, Event, Migrated, Queued, Restarted, Started
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import Deltas
from roost_gateway.front.http.calls import ClientLeftError, HttpCall
from roost_gateway.front.http.errors import Failure
from roost_gateway.front.http.headers import (
    budget_headers,
    recognition_headers,
    repetition_headers,
    step_headers,
)
from roost_gateway.front.http.sse import EventStream, ServerEvent
from roost_gateway.recognition.conversation import Conversation, Recognised

T = TypeVar("T")

HEARTBEAT_SECONDS = 10.0
"""After so much silence a stream gets a comment, also when it has not begun."""


class Translator(Protocol):
    """Makes an API's events of a step's. Pure, and new for each start of the output."""

    def begin(self, recognised: Recognised) -> None:
        """Takes what the conversation was recognised as, before the first event."""
        ...

    def events(self, event: Event) -> Sequence[ServerEvent]:
        """Returns the API's events for one of the step, for Committed also those that end the stream.

        Raises Refused when what has been returned differs from what was committed.
        """
        ...

    def failure(self, failure: Failure) -> Sequence[ServerEvent]:
        """Returns the events that say that the stream has failed. Nothing need have been called before."""
        ...


async def whole_step(
    call: HttpCall, conversation: Conversation, body: Callable[[Recognised, Committed], dict[str, Any]]
) -> None:
    """Answers with `body` of the committed step. Raises what the core raises, and ClientLeftError."""
    conversation = replace(conversation, deltas=Deltas.NONE)

    async def run() -> dict[str, Any]:
        async with call.conversations.step(conversation, call.caller) as step:
            call.response_headers |= recognition_headers(step.recognised)
            async for event in step.events:
                if isinstance(event, Committed):
                    call.is_committed = True
                    call.response_headers |= step_headers(event.usage.cached_tokens, event.why)
                    call.response_headers |= budget_headers(event.budgets) | repetition_headers(event.repetition)
                    answer = body(step.recognised, event)
        return answer

    await call.respond(await attend(call, run()))


async def stream_step(call: HttpCall, conversation: Conversation, translator: Callable[[], Translator]) -> None:
    """Answers with the step as a stream, which begins at its first event or heartbeat.

    Raises what the core raises unless the stream has begun; and ClientLeftError, after the step has been cancelled.
    """
    await _StepStream(call, conversation, translator).answer()


class _StepStream:
    def __init__(self, call: HttpCall, conversation: Conversation, translator: Callable[[], Translator]) -> None:
        self._call, self._conversation, self._new_translator = call, conversation, translator
        self._stream = EventStream(call.send, call.response_headers)
        self._translator = translator()

    async def answer(self) -> None:
        """Returns without `finish` when the stream has failed, so that the server breaks the body."""
        try:
            await attend(self._call, self._run(), self._stream)
        except ClientLeftError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not self._stream.is_started:
                raise
            await self._stream.write(self._translator.failure(self._call.failed(error)))

    async def _run(self) -> None:
        call = self._call
        async with call.conversations.step(self._conversation, call.caller) as step:
            call.response_headers |= recognition_headers(step.recognised)
            self._translator.begin(step.recognised)
            async for event in step.events:
                if isinstance(event, Restarted):
                    self._restart(event, step.recognised)
                else:
                    await self._pass_on(event)
        await self._stream.finish()

    async def _pass_on(self, event: Event) -> None:
        if isinstance(event, Started):
            self._call.response_headers |= step_headers(event.cached_tokens, event.why)
        self._call.is_committed = isinstance(event, Committed)
        if self._stream.is_started and isinstance(event, Queued | Migrated):
            await self._stream.comment(_progress(event))
        await self._stream.write(self._translator.events(event))

    def _restart(self, event: Restarted, recognised: Recognised) -> None:
        """Raises Refused when the client has output already, which cannot be taken back."""
        if self._stream.has_events:
            raise Refused(Reason.WORKER_LOST, f"the output starts again: {event.reason}; send the request again")
        self._translator = self._new_translator()
        self._translator.begin(recognised)


def _progress(event: Queued | Migrated) -> str:
    if isinstance(event, Queued):
        return f"queued behind {event.position}"
    return f"the session moved to generation {event.generation}"


async def attend(call: HttpCall, work: Coroutine[Any, Any, T], stream: EventStream | None = None) -> T:
    """Returns what `work` does. While it runs, a silent stream gets comments.

    Cancels it and raises ClientLeftError when the client leaves before the step is committed; later that is normal.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnected(call.receive))
    try:
        while True:
            waited = {working} if leaving.done() else {working, leaving}
            await asyncio.wait(waited, timeout=_quiet_seconds(stream), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if leaving.done() and not call.is_committed:
                raise ClientLeftError
            if stream is not None and _quiet_seconds(stream) == 0:
                await stream.comment("waiting")
    finally:
        await _cancel(working, leaving)


def _quiet_seconds(stream: EventStream | None) -> float | None:
    """Seconds until the stream has been silent for long enough, at least 0."""
    if stream is None:
        return None
    return max(0.0, stream.last_write + HEARTBEAT_SECONDS - asyncio.get_running_loop().time())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
