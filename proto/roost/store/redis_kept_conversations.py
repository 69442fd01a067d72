"""`roost.store.kept_conversations.KeptConversationStore` in Redis."""

from roost.store import kept_codec
from roost.store.arguments import accepted
from roost.store.codec import CorruptRecordError
from roost.store.kept_conversations import KeptConversation
from roost.store.keys import kept_conversation
from roost.store.link import RedisLink
from roost.store.scripts import Call


class RedisKeptConversations:
    """See the protocol for what each call does."""

    def __init__(self, link: RedisLink, watermark: float) -> None:
        """`watermark` is the part of `maxmemory` above which only commits write."""
        self._link = link
        self._watermark = watermark

    async def read(self, tenant: str, conversation_id: str) -> KeptConversation | None:
        version, body = await self._link.run("HMGET", kept_conversation(tenant, conversation_id), "version", "body")
        if version is None:
            return None
        try:
            return kept_codec.decode(conversation_id, version.decode(), body)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptRecordError(f"conversation {conversation_id}: {error!r}") from error

    async def write(
        self, tenant: str, conversation: KeptConversation, version: str, ttl_ms: int, *, is_commit: bool = False
    ) -> bool:
        call = Call(
            {"conversation": kept_conversation(tenant, conversation.conversation_id)},
            {
                "before": conversation.version,
                "version": version,
                "body": kept_codec.encode(conversation),
                "watermark": 0 if is_commit else self._watermark,
                "ttl_ms": ttl_ms,
            },
        )
        return bool(accepted(await self._link.script("keep", call))[0] == b"done")

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        return bool(await self._link.run("DEL", kept_conversation(tenant, conversation_id)))
