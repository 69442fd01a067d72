"""Between conversations that clients have created and what Redis keeps of them. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from roost.store.kept_conversations import Continuation, KeptConversation, WaitingMessage
from roost.store.values import message_from_record, message_to_record


def encode(conversation: KeptConversation) -> str:
    """Everything but id and version, as JSON."""
    former = conversation.former
    document = {
        "created": conversation.created_ms,
        "metadata": dict(conversation.metadata),
        "next": _continuation_to_json(conversation.next),
        "former": None if former is None else _continuation_to_json(former),
        "numbers": conversation.numbers,
    }
    return json.dumps(document, separators=(",", ":"))


def decode(conversation_id: str, version: str, text: str | bytes) -> KeptConversation:
    """The conversation that `encode` has written. Raises KeyError, TypeError or ValueError for other text."""
    document = json.loads(text)
    former = document["former"]
    return KeptConversation(
        conversation_id=conversation_id,
        created_ms=document["created"],
        metadata=document["metadata"],
        next=_continuation_from_json(document["next"]),
        former=None if former is None else _continuation_from_json(former),
        numbers=document["numbers"],
        version=version,
    )


def _continuation_to_json(continuation: Continuation) -> dict[str, Any]:
    waiting = [{"number": each.number, "message": message_to_record(each.message)} for each in continuation.waiting]
    return {"session": continuation.session_id, "step": continuation.step_id, "waiting": waiting}


def _continuation_from_json(document: Mapping[str, Any]) -> Continuation:
    waiting = (WaitingMessage(each["number"], message_from_record(each["message"])) for each in document["waiting"])
    return Continuation(document["session"], document["step"], tuple(waiting))
