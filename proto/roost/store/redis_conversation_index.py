"""`roost.store.conversation_index.ConversationIndex` in Redis."""

from collections.abc import Sequence

from roost.store.conversation_index import MAX_ENTRIES, IndexEntry, IndexWrite, decode_entries, encode_entry
from roost.store.keys import PoolKeys
from roost.store.link import RedisLink
from roost.store.scripts import Arg, Call


class RedisConversationIndex:
    """See the interface for what each call does."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def find(self, pool: str, keys: Sequence[bytes]) -> list[tuple[IndexEntry, ...]]:
        if not keys:
            return []
        stored = await self._link.run("MGET", *map(PoolKeys(pool).conversation, keys))
        return [decode_entries(pool, value) for value in stored]

    async def remember(self, pool: str, writes: Sequence[IndexWrite]) -> None:
        keys = [PoolKeys(pool).conversation(write.key) for write in writes]
        entries: list[Arg] = [part for write in writes for part in (encode_entry(write.entry), write.ttl_ms)]
        await self._link.script("remember", Call(args={"most": MAX_ENTRIES}, more_keys=keys, more_args=entries))
