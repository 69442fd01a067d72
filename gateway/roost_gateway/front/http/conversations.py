"""`/v1/conversations`, OpenAI's API: conversations that requests of `/v1/responses` continue by their ids."""

from starlette.datastructures import QueryParams

from roost.contract.refused import invalid
from roost.store.kept_conversations import KeptConversation
from roost_gateway.core.kept_conversations import KeptConversations
from roost_gateway.front.http.calls import HttpCall
from roost_gateway.front.http.conversation_items import ConversationItems, waiting_items
from roost_gateway.front.http.conversations_body import (
    CONVERSATION,
    CONVERSATIONS,
    ITEMS,
    ConversationBody,
    ItemsBody,
    MetadataBody,
    items_query,
    new_messages,
)
from roost_gateway.front.http.ids import waiting_number
from roost_gateway.front.http.parameters import read
from roost_gateway.front.http.responses_items import JsonObject


async def create_conversation(call: HttpCall) -> None:
    """Answers with a new conversation."""
    body, headers = read(ConversationBody, CONVERSATIONS, call.body or b"{}")
    call.response_headers |= headers
    kept = await _kept(call).create(body.metadata or {}, new_messages(body.items or []), call.caller)
    await call.respond(conversation_body(kept))


async def get_conversation(call: HttpCall) -> None:
    await call.respond(conversation_body(await _kept(call).get(_id(call), call.caller)))


async def update_conversation(call: HttpCall) -> None:
    """Replaces the conversation's metadata."""
    body, headers = read(MetadataBody, CONVERSATION, call.body)
    call.response_headers |= headers
    await call.respond(conversation_body(await _kept(call).set_metadata(_id(call), body.metadata or {}, call.caller)))


async def delete_conversation(call: HttpCall) -> None:
    """Deletes the conversation; the sessions of its responses stay, until they expire."""
    await _kept(call).delete(_id(call), call.caller)
    await call.respond({"id": _id(call), "object": "conversation.deleted", "deleted": True})


async def list_items(call: HttpCall) -> None:
    """Answers with a page of items, the latest first unless the query says otherwise."""
    items, has_more = await (await _items(call)).page(items_query(QueryParams(call.scope["query_string"])))
    await call.respond(list_body(items, has_more=has_more))


async def create_items(call: HttpCall) -> None:
    """Lets items wait for the next response, and answers with them."""
    body, headers = read(ItemsBody, ITEMS, call.body)
    call.response_headers |= headers
    messages = new_messages(body.items)
    kept = await _kept(call).add(_id(call), messages, call.caller)
    added = kept.next.waiting[len(kept.next.waiting) - len(messages) :]
    await call.respond(list_body(list(waiting_items(kept, added)), has_more=False))


async def get_item(call: HttpCall) -> None:
    await call.respond(await (await _items(call)).get(_item_id(call)))


async def delete_item(call: HttpCall) -> None:
    """Takes out an item that waits, and answers with the conversation. Raises Refused: INVALID_REQUEST for an item of a
    response, SESSION_NOT_FOUND for an item that does not wait."""
    number = waiting_number(_item_id(call), _id(call))
    if number is None:
        await (await _items(call)).get(_item_id(call))
        raise invalid([("item_id", "a response has it, and logs only grow; create a conversation without the item")])
    await call.respond(conversation_body(await _kept(call).remove(_id(call), number, call.caller)))


def conversation_body(kept: KeptConversation) -> JsonObject:
    """The body of one conversation."""
    return {
        "id": kept.conversation_id,
        "object": "conversation",
        "created_at": kept.created_ms // 1000,
        "metadata": dict(kept.metadata),
    }


def list_body(items: list[JsonObject], *, has_more: bool) -> JsonObject:
    """The body of a list of items."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more}


def _kept(call: HttpCall) -> KeptConversations:
    return call.conversations.kept


async def _items(call: HttpCall) -> ConversationItems:
    kept = await _kept(call).get(_id(call), call.caller)
    return ConversationItems(call.front.life.gateway, call.caller, kept)


def _id(call: HttpCall) -> str:
    return str(call.scope["path_params"]["id"])


def _item_id(call: HttpCall) -> str:
    return str(call.scope["path_params"]["item"])
