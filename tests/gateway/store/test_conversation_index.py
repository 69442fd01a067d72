"""The index of conversations: sessions under the hashes of their histories."""

from dataclasses import replace
from typing import Any

from roost.contract.heads import Head
from roost.contract.names import new_session_id
from roost.store.conversation_index import MAX_ENTRIES, MAX_KEYS, EntryState, IndexEntry, IndexWrite
from roost.store.interface import SessionStore
from roost.store.keys import PoolKeys
from store_driver import Raw

POOL, LONG_MS = "team/agents", 3_600_000


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def entry(pool: str = POOL, **fields: Any) -> IndexEntry:
    at = IndexEntry(new_session_id(pool), Head(12, b"h" * 16, 3), 7, b"o" * 16, b"w" * 16)
    return replace(at, **fields)


async def remember(store: SessionStore, *entries: IndexEntry, number: int = 1, ttl_ms: int = LONG_MS) -> None:
    for at in entries:
        await store.conversations.remember(POOL, [IndexWrite(key(number), at, ttl_ms)])


async def under(store: SessionStore, number: int = 1) -> tuple[IndexEntry, ...]:
    return (await store.conversations.find(POOL, [key(number)]))[0]


async def test_entries_come_back_as_they_were_written_under_the_keys_asked_for(store: SessionStore) -> None:
    ended, empty = entry(), entry(head=Head(), units=0, state=EntryState.PASSED)
    await store.conversations.remember(POOL, [IndexWrite(key(1), ended, LONG_MS), IndexWrite(key(2), empty, LONG_MS)])
    answers = await store.conversations.find(POOL, [key(2), key(3), key(1)])
    assert answers == [(empty,), (), (ended,)]
    assert answers[2][0].head.generation == 3
    assert await store.conversations.find(POOL, []) == []
    assert await store.conversations.find("team/b", [key(1)]) == [()]


async def test_a_gateway_finds_what_another_one_remembers(store: SessionStore, other: SessionStore) -> None:
    at = entry()
    await remember(store, at)
    assert await under(other) == (at,)


async def test_sessions_with_equal_histories_are_listed_newest_first_up_to_a_bound(store: SessionStore) -> None:
    entries = [entry() for _ in range(MAX_ENTRIES + 2)]
    await remember(store, *entries)
    assert await under(store) == tuple(reversed(entries[2:]))


async def test_a_sessions_newer_entry_replaces_its_former_one_under_a_key(store: SessionStore) -> None:
    first, second = entry(), entry()
    gone_on = replace(first, state=EntryState.PASSED)
    await remember(store, first, second, gone_on)
    assert await under(store) == (gone_on, second)


async def test_of_other_families_one_session_is_kept_under_a_key(store: SessionStore) -> None:
    own = entry()
    foreign, newer = (entry(state=EntryState.OTHER_FAMILY) for _ in range(2))
    await remember(store, foreign, own, newer)
    assert await under(store) == (newer, own)


async def test_all_keys_of_a_long_history_are_looked_up_at_once(store: SessionStore) -> None:
    at = entry()
    await remember(store, at, number=MAX_KEYS)
    answers = await store.conversations.find(POOL, [key(number) for number in range(1, MAX_KEYS + 1)])
    assert answers == [()] * (MAX_KEYS - 1) + [(at,)]


async def test_entries_expire_and_those_of_another_version_are_passed_over(store: SessionStore, raw: Raw) -> None:
    stored = PoolKeys(POOL).conversation(key(1))
    raw.set(stored, b"of another version")
    assert await under(store) == ()
    at = entry()
    await remember(store, at)
    assert await under(store) == (at,)
    assert LONG_MS - 60_000 < raw.pttl(stored) <= LONG_MS
