"""Conversations that clients create: they name where the next step goes on, and hold messages until a step takes them.

The steps themselves are in the logs of sessions, and nowhere else.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from roost.contract.messages import Message
from roost.contract.pool_document import DEFAULT_IMPLICIT_TTL_SECONDS
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost.store.kept_codec import encode
from roost.store.kept_conversations import Continuation, KeptConversation, KeptConversationStore, WaitingMessage
from roost_gateway.core.caller import Caller
from roost_gateway.fleet.pools import Pools

MAX_WAITING_MESSAGES = 1000
MAX_BYTES = 1024 * 1024
"""Of one conversation as it is stored, without what its last step has taken."""
_TRIES = 8
"""How often a change is tried that others come before."""
Change = Callable[[KeptConversation], KeptConversation]


class KeptConversations:
    """The conversations of a tenant. Every method raises Refused or StoreAwayError; SESSION_NOT_FOUND when the caller's
    tenant has no such conversation."""

    def __init__(self, store: KeptConversationStore, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def create(
        self, metadata: Mapping[str, str], messages: Sequence[Message], caller: Caller
    ) -> KeptConversation:
        """Writes a new conversation. Until its first step it lives as long as conversations do in any of the caller's
        pools; after a step as long as that step's session."""
        created = KeptConversation(new_id(), int(time.time() * 1000), metadata)
        conversation, version = _with_messages(created, messages), new_version()
        await self._store.write(caller.tenant, conversation, version, self._ttl_ms(caller))
        return replace(conversation, version=version)

    async def get(self, conversation_id: str, caller: Caller) -> KeptConversation:
        conversation = await self._store.read(caller.tenant, conversation_id)
        if conversation is None:
            raise _not_found(conversation_id)
        return conversation

    async def set_metadata(self, conversation_id: str, metadata: Mapping[str, str], caller: Caller) -> KeptConversation:
        return await self._change(conversation_id, caller, lambda before: replace(before, metadata=metadata))

    async def add(self, conversation_id: str, messages: Sequence[Message], caller: Caller) -> KeptConversation:
        """Lets messages wait for the next step. Refuses: INVALID_REQUEST when the conversation has no room."""
        return await self._change(conversation_id, caller, lambda before: _with_messages(before, messages))

    async def remove(self, conversation_id: str, number: int, caller: Caller) -> KeptConversation:
        """Takes out a message that waits. Refuses: SESSION_NOT_FOUND when none with this number does."""
        return await self._change(conversation_id, caller, lambda before: _without_message(before, number))

    async def delete(self, conversation_id: str, caller: Caller) -> None:
        """Deletes the conversation, not its sessions."""
        if not await self._store.delete(caller.tenant, conversation_id):
            raise _not_found(conversation_id)

    async def advance(
        self, taken: KeptConversation, session_id: str, step_id: str, caller: Caller, ttl_ms: int
    ) -> None:
        """Moves a conversation on, after a committed step that continued it as `taken` says. Nothing is done when it
        was deleted while the step ran. Refuses: ANOTHER_STEP_RUNNING when another step came first."""

        def advanced(before: KeptConversation) -> KeptConversation:
            return _advanced(before, taken, (session_id, step_id))

        try:
            await self._change(taken.conversation_id, caller, advanced, ttl_ms, is_commit=True)
        except Refused as error:
            if error.reason is not Reason.SESSION_NOT_FOUND:
                raise

    async def _change(
        self, conversation_id: str, caller: Caller, change: Change, ttl_ms: int = 0, *, is_commit: bool = False
    ) -> KeptConversation:
        for _ in range(_TRIES):
            before = await self.get(conversation_id, caller)
            after, version = change(before), new_version()
            if after == before:
                return before
            if await self._store.write(caller.tenant, after, version, ttl_ms, is_commit=is_commit):
                return replace(after, version=version)
        raise Refused(
            Reason.ANOTHER_STEP_RUNNING, "other requests change the conversation; try again", retry_seconds=1.0
        )

    def _ttl_ms(self, caller: Caller) -> int:
        documents = (self._pools.known(name) for name in self._pools.names if caller.may_use(name))
        ttls = [document.implicit_ttl_ms for document in documents if document is not None]
        return max(ttls, default=int(DEFAULT_IMPLICIT_TTL_SECONDS * 1000))


def new_id() -> str:
    return f"conv_{secrets.token_hex(16)}"


def is_id(text: str) -> bool:
    """Whether a conversation was created here. Clients name conversations of their own as they like."""
    prefix, _, digits = text.partition("_")
    return prefix == "conv" and len(digits) == 32 and set(digits) <= set("0123456789abcdef")


def new_version() -> str:
    return secrets.token_hex(8)


def _with_messages(before: KeptConversation, messages: Sequence[Message]) -> KeptConversation:
    added = (WaitingMessage(before.numbers + place, message) for place, message in enumerate(messages))
    waiting = (*before.next.waiting, *added)
    after = replace(before, next=replace(before.next, waiting=waiting), numbers=before.numbers + len(messages))
    if len(waiting) > MAX_WAITING_MESSAGES or len(encode(replace(after, former=None))) > MAX_BYTES:
        limits = f"{MAX_WAITING_MESSAGES} items, or {MAX_BYTES} bytes"
        raise invalid([("items", f"more than {limits}, would wait in the conversation; have a response take some")])
    return after


def _without_message(before: KeptConversation, number: int) -> KeptConversation:
    waiting = tuple(each for each in before.next.waiting if each.number != number)
    if len(waiting) == len(before.next.waiting):
        raise Refused(Reason.SESSION_NOT_FOUND, "no such item waits: it was deleted, or a response has taken it")
    return replace(before, next=replace(before.next, waiting=waiting))


def _advanced(before: KeptConversation, taken: KeptConversation, step: tuple[str, str]) -> KeptConversation:
    """The conversation after a step that took what `taken` has; what came since then goes on waiting. It stays as it is
    after a step that has moved it on already: a gateway that takes a step over cannot know, and the next response may
    have come since."""
    if step in (before.next.step, before.former.step if before.former is not None else None):
        return before
    if before.next.step != taken.next.step:
        raise Refused(
            Reason.ANOTHER_STEP_RUNNING,
            "another response has continued the conversation while this one was written; send the request again",
            retry_seconds=0.0,
        )
    numbers = {each.number for each in taken.next.waiting}
    waiting = tuple(each for each in before.next.waiting if each.number not in numbers)
    return replace(before, next=Continuation(*step, waiting), former=taken.next)


def _not_found(conversation_id: str) -> Refused:
    return Refused(
        Reason.SESSION_NOT_FOUND, f"there is no conversation {conversation_id[:100]!r}, or it has expired; create one"
    )
