"""The items of a conversation: those of its steps, read from the log of its session, then those that wait."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from roost.contract.messages import Message, MessageRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import LoggedStep
from roost.store.kept_conversations import KeptConversation, WaitingMessage
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway
from roost_gateway.front.http.conversations_body import ItemsQuery
from roost_gateway.front.http.ids import CALL, OUTPUT, TEXT, AnswerName, name_of, waiting_id, waiting_number
from roost_gateway.front.http.responses_body import ResponsesBody
from roost_gateway.front.http.responses_events import response_of
from roost_gateway.front.http.responses_items import CallItem, JsonObject, TextItem
from roost_gateway.front.http.responses_log import committed_of
from roost_gateway.recognition.conversation import Match, Recognised

_STEPS_READ = 10
"""Steps of a log that are read at once."""


class ConversationItems:
    """Reads a conversation's items. Methods raise StoreAwayError; Refused: SESSION_NOT_FOUND when the conversation does
    not have the item, or its session has expired."""

    def __init__(self, gateway: Gateway, caller: Caller, kept: KeptConversation) -> None:
        self._gateway, self._caller, self._kept = gateway, caller, kept

    async def page(self, query: ItemsQuery) -> tuple[list[JsonObject], bool]:
        """The items that a query asks for, and whether more follow."""
        items = list[JsonObject]()
        async with aclosing(self._listed(query)) as listed:
            async for item in listed:
                if len(items) == query.limit:
                    return items, True
                items.append(item)
        return items, False

    async def get(self, item_id: str) -> JsonObject:
        number = waiting_number(item_id, self._kept.conversation_id)
        if number is not None:
            items = [item for item in waiting_items(self._kept) if item["id"] == item_id]
        else:
            step = await self._step_of(item_id)
            items = [item for item in logged_items(self._kept.next.session_id, step) if item["id"] == item_id]
        if not items:
            raise _not_found(item_id)
        return items[0]

    async def _listed(self, query: ItemsQuery) -> AsyncGenerator[JsonObject, None]:
        """The items in the query's order, after its item."""
        number = waiting_number(query.after, self._kept.conversation_id)
        waits = [each for each in self._kept.next.waiting if _is_after(each, number, query)]
        waiting = waiting_items(self._kept, waits if query.is_ascending else waits[::-1])
        is_logged = bool(query.after) and number is None
        if not query.is_ascending and not is_logged:
            for item in waiting:
                yield item
        if not query.is_ascending or number is None:
            async with aclosing(self._logged(query.after if is_logged else "", query.is_ascending)) as logged:
                async for item in logged:
                    yield item
        if query.is_ascending:
            for item in waiting:
                yield item

    async def _logged(self, after: str, is_ascending: bool) -> AsyncGenerator[JsonObject, None]:
        """The items of the steps, after the one with this id."""
        session_id, last = self._kept.next.session_id, await self._last_index()
        start = (await self._step_of(after)).index if after else 0 if is_ascending else last
        is_past = not after
        for first, count in _windows(start, last, is_ascending):
            page = await self._gateway.list_steps(session_id, self._caller, page_size=count, page_token=str(first))
            items = [item for step in page.steps for item in logged_items(session_id, step)]
            for item in items if is_ascending else items[::-1]:
                if is_past:
                    yield item
                is_past |= item["id"] == after
        if not is_past:
            raise _not_found(after)

    async def _last_index(self) -> int:
        """Index of the conversation's last step; -1 before the first one."""
        session_id, step_id = self._kept.next.step
        if not session_id:
            return -1
        step = await self._gateway.logged_step(session_id, step_id, self._caller)
        if step is None:
            raise Refused(Reason.SESSION_NOT_FOUND, "the store has lost the conversation's last response")
        return step.index

    async def _step_of(self, item_id: str) -> LoggedStep:
        name = name_of(item_id)
        if name is None or name.part is None or name.session_id != self._kept.next.session_id:
            raise _not_found(item_id)
        step = await self._gateway.logged_step(name.session_id, name.step_id, self._caller)
        if step is None or step.index > await self._last_index():
            raise _not_found(item_id)
        return step


def logged_items(session_id: str, step: LoggedStep) -> Iterator[JsonObject]:
    """The items of a step: what it was given, then what it answered, under the ids that the answer had."""
    name = AnswerName(session_id, step.step_id, is_input=True)
    given = (item for message in step.messages for item in message_items(message))
    for number, (prefix, item) in enumerate(given):
        yield {"id": replace(name, part=number).id(prefix), **item}
    recognised = Recognised(session_id, step.step_id, Match.ATTACHED, log_tokens=0)
    yield from response_of(ResponsesBody(input=[]), 0.0, recognised, committed_of(step))["output"]


def waiting_items(kept: KeptConversation, waiting: Sequence[WaitingMessage] | None = None) -> Iterator[JsonObject]:
    """The items of messages that wait in a conversation, by default of all of them."""
    for each in kept.next.waiting if waiting is None else waiting:
        for prefix, item in message_items(each.message):
            yield {"id": waiting_id(prefix, kept.conversation_id, each.number), **item}


def message_items(message: Message) -> Iterator[tuple[str, JsonObject]]:
    """The items that a message is, each with the prefix of its id."""
    if message.role is MessageRole.TOOL:
        output = {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content}
        yield OUTPUT, {**output, "status": "completed"}
    elif message.role is MessageRole.ASSISTANT:
        if message.content or not message.tool_calls:
            yield TEXT, TextItem().item(message.content, "completed")
        for call in message.tool_calls:
            yield CALL, CallItem(call.id, call.name, None).item(call.arguments_json, "completed")
    else:
        content = [{"type": "input_text", "text": message.content}]
        yield TEXT, {"type": "message", "role": message.role.value, "content": content, "status": "completed"}


def _is_after(waiting: WaitingMessage, number: int | None, query: ItemsQuery) -> bool:
    if number is None:
        return True
    return waiting.number > number if query.is_ascending else waiting.number < number


def _windows(start: int, last: int, is_ascending: bool) -> Iterator[tuple[int, int]]:
    """Runs of steps, each as its first step and their number: from `start` up to `last`, or down to 0."""
    if is_ascending:
        for first in range(start, last + 1, _STEPS_READ):
            yield first, min(_STEPS_READ, last + 1 - first)
    else:
        for end in range(start, -1, -_STEPS_READ):
            first = max(0, end + 1 - _STEPS_READ)
            yield first, end + 1 - first


def _not_found(item_id: str) -> Refused:
    return Refused(Reason.SESSION_NOT_FOUND, f"the conversation has no item {item_id[:200]!r} (any more); list them")
