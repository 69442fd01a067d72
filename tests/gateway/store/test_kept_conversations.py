"""Conversations that clients create, as both stores keep them."""

import asyncio
from dataclasses import replace

import pytest

from redis_servers import RedisServer
from roost.contract.messages import Message, MessageRole, ToolCall
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.kept_conversations import Continuation, KeptConversation, WaitingMessage
from roost.store.keys import kept_conversation
from store_driver import Raw

TENANT, ID, LONG_MS = "acme", "conv_1", 3_600_000
CALL = Message(MessageRole.ASSISTANT, "Looking.", (ToolCall("c1", "read", '{"path": "é"}'),))
RESULT = Message(MessageRole.TOOL, "one", tool_call_id="c1", name="read")
WAITING = (WaitingMessage(3, CALL), WaitingMessage(4, RESULT))
CONVERSATION = KeptConversation(
    ID, 7, {"topic": "roost"}, Continuation("a/b/s", "step", WAITING), Continuation(), numbers=5
)


async def test_a_conversation_is_read_as_it_was_written_by_its_tenant_only(store: SessionStore) -> None:
    kept = store.kept_conversations
    assert await kept.read(TENANT, ID) is None
    assert await kept.write(TENANT, CONVERSATION, "v1", LONG_MS)
    assert await kept.read(TENANT, ID) == replace(CONVERSATION, version="v1")
    assert await kept.read("other", ID) is None
    assert not await kept.delete("other", ID)
    assert await kept.delete(TENANT, ID)
    assert await kept.read(TENANT, ID) is None
    assert not await kept.delete(TENANT, ID)


async def test_of_two_writes_over_the_same_state_one_is_done(store: SessionStore) -> None:
    kept = store.kept_conversations
    await kept.write(TENANT, CONVERSATION, "v1", LONG_MS)
    read = replace(CONVERSATION, version="v1")
    writes = [kept.write(TENANT, replace(read, numbers=number), f"w{number}", 0) for number in range(5)]
    done = await asyncio.gather(*writes)
    assert sum(done) == 1
    stored = await kept.read(TENANT, ID)
    assert stored is not None
    assert (stored.numbers, stored.version) == (done.index(True), f"w{done.index(True)}")
    assert not await kept.write(TENANT, CONVERSATION, "v2", LONG_MS), "there is one already"
    await kept.delete(TENANT, ID)
    assert not await kept.write(TENANT, stored, "v3", 0), "what was deleted stays so"


async def test_a_write_that_is_sent_again_is_done_once(store: SessionStore, raw: Raw) -> None:
    kept = store.kept_conversations
    assert await kept.write(TENANT, CONVERSATION, "v1", LONG_MS)
    assert await kept.write(TENANT, CONVERSATION, "v1", LONG_MS)


async def test_a_conversation_lives_as_long_as_its_last_write_with_a_time_says(store: SessionStore, raw: Raw) -> None:
    kept, key = store.kept_conversations, kept_conversation(TENANT, ID)
    await kept.write(TENANT, CONVERSATION, "v1", 60_000)
    await kept.write(TENANT, replace(CONVERSATION, version="v1"), "v2", 0)
    assert 0 < raw.pttl(key) <= 60_000
    await kept.write(TENANT, replace(CONVERSATION, version="v2"), "v3", LONG_MS)
    assert 60_000 < raw.pttl(key) <= LONG_MS


async def test_a_full_store_takes_what_a_commit_moves_on_only(fresh: SessionStore, fresh_redis: RedisServer) -> None:
    kept = fresh.kept_conversations
    with fresh_redis.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.95))
    with pytest.raises(Refused) as error:
        await kept.write(TENANT, CONVERSATION, "v1", LONG_MS)
    assert error.value.reason is Reason.STORE_FULL
    assert await kept.write(TENANT, CONVERSATION, "v1", LONG_MS, is_commit=True)
