"""Conversations that clients have created: where each goes on, and the messages in it that no step has taken yet.

What its steps took and answered is in the logs of their sessions. Pure but for the clock of the store in memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from roost.contract.messages import Message


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message that a client has added, and that waits for the next step."""

    number: int
    """Unique in its conversation; later messages have greater ones."""
    message: Message


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a conversation goes on: after a committed step, with messages that wait."""

    session_id: str = ""
    """Session of the conversation's last step; empty before the first one."""
    step_id: str = ""
    waiting: tuple[WaitingMessage, ...] = ()

    @property
    def step(self) -> tuple[str, str]:
        return self.session_id, self.step_id


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """A conversation as it is stored."""

    conversation_id: str
    created_ms: int
    metadata: Mapping[str, str]
    next: Continuation = Continuation()
    former: Continuation | None = None
    """`next` as the last step found it, for a client that asks for that step again; None before the first one."""
    numbers: int = 0
    """Messages that have been added so far."""
    version: str = ""
    """Differs from that of any other state of the conversation; empty: not stored yet."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Messages that wait, oldest first."""
        return tuple(waiting.message for waiting in self.next.waiting)


class KeptConversationStore(Protocol):
    """The conversations of each tenant. Every call is one round trip; all raise StoreAwayError."""

    async def read(self, tenant: str, conversation_id: str) -> KeptConversation | None: ...

    async def write(
        self, tenant: str, conversation: KeptConversation, version: str, ttl_ms: int, *, is_commit: bool = False
    ) -> bool:
        """Writes a conversation under a new version, in place of the state that has its own. False when that is gone,
        or is another by now. `ttl_ms` is how long it lives from now; 0: as long as before. Refuses: STORE_FULL, unless
        the write belongs to a commit."""
        ...

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """False when there is no such conversation."""
        ...


class MemoryKeptConversations:
    """`KeptConversationStore` in this process."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives the time in ms."""
        self._clock = clock
        self._kept: dict[tuple[str, str], tuple[int, KeptConversation]] = {}
        """With the time at which each expires."""

    async def read(self, tenant: str, conversation_id: str) -> KeptConversation | None:
        expires_ms, conversation = self._kept.get((tenant, conversation_id), (0, None))
        return conversation if self._clock() < expires_ms else None

    async def write(
        self, tenant: str, conversation: KeptConversation, version: str, ttl_ms: int, *, is_commit: bool = False
    ) -> bool:
        key, before = (tenant, conversation.conversation_id), await self.read(tenant, conversation.conversation_id)
        if (before.version if before is not None else "") != conversation.version:
            return False
        expires_ms = self._clock() + ttl_ms if ttl_ms else self._kept[key][0]
        self._kept[key] = (expires_ms, replace(conversation, version=version))
        return True

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        was_there = await self.read(tenant, conversation_id) is not None
        self._kept.pop((tenant, conversation_id), None)
        return was_there
