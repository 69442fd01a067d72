"""The requests of /v1/conversations: bodies, and the query of a list of items. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from roost.contract.messages import Message
from roost.contract.refused import invalid
from roost_gateway.front.http.parameters import Body, ParameterTable, ignored, supported
from roost_gateway.front.http.responses_body import Item, ReferenceItem
from roost_gateway.front.http.responses_conversation import messages_of

MAX_NEW_ITEMS = 20
"""As at OpenAI."""
MAX_LIMIT, DEFAULT_LIMIT = 100, 20
"""Of a list's items."""
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
NewItems = Annotated[list[Item], Field(max_length=MAX_NEW_ITEMS)]


class ConversationBody(Body):
    """The body of POST /v1/conversations."""

    items: NewItems | None = None
    metadata: Metadata | None = None


class MetadataBody(Body):
    """The body of POST /v1/conversations/ID."""

    metadata: Metadata | None


class ItemsBody(Body):
    """The body of POST /v1/conversations/ID/items."""

    items: Annotated[NewItems, Field(min_length=1)]


_ITEMS = supported(
    "items",
    f"at most {MAX_NEW_ITEMS}: messages, function calls and their outputs, and reasoning (dropped). They wait for the "
    "next response, which takes them before its `input`",
)
_METADATA = supported("metadata", "at most 16 texts")
CONVERSATIONS = ParameterTable("/v1/conversations", (_ITEMS, _METADATA))
CONVERSATION = ParameterTable("/v1/conversations/{id}", (_METADATA,))
ITEMS = ParameterTable(
    "/v1/conversations/{id}/items", (_ITEMS, ignored("include", "items always have all that there is"))
)


def new_messages(items: list[Item]) -> list[Message]:
    """The messages that new items are. Raises Refused: INVALID_REQUEST for references."""
    references = [number for number, item in enumerate(items) if isinstance(item, ReferenceItem)]
    if references:
        raise invalid((f"items[{number}]", "is a reference; send the item itself") for number in references)
    return list(messages_of(items, {}))


@dataclass(frozen=True, slots=True)
class ItemsQuery:
    """Which items a client lists."""

    limit: int = DEFAULT_LIMIT
    is_ascending: bool = False
    after: str = ""
    """Item after which the list begins, in its own order; empty: at its start."""


def items_query(query: Mapping[str, str]) -> ItemsQuery:
    """Reads the query of a list. Raises Refused: INVALID_REQUEST."""
    limit, order = query.get("limit", str(DEFAULT_LIMIT)), query.get("order", "desc")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LIMIT):
        raise invalid([("limit", f"must be a number from 1 to {MAX_LIMIT}")])
    if order not in ("asc", "desc"):
        raise invalid([("order", 'must be "asc" or "desc"')])
    return ItemsQuery(int(limit), order == "asc", query.get("after", ""))
