"""Where sessions have committed steps, by the hash of the conversation up to there: what a gateway recognises by.

The index is an aid. It may forget: what is not in it is imported as a new session. Pure but for the clock of the index
in memory.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from roost.contract.heads import Head

MAX_KEYS = 64
"""Keys of one `find`."""
MAX_ENTRIES = 8
"""Sessions under one key; the oldest make room."""
_RECORD = struct.Struct(">c26sIQ16sI16s16s")
"""The first byte is the state, and 26 follow that name the session: `remember.lua` reads both."""


class EntryState(StrEnum):
    """How an entry may be used."""

    HEAD = "h"
    """The session's log ended here when this was written: a step may continue it."""
    PASSED = "p"
    """The session has gone on from here."""
    OTHER_FAMILY = "n"
    """The session belongs to a family, and the key does not: it may be forked from here. One is kept under a key."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A point of a session's log."""

    session_id: str
    head: Head
    """End of the log at that point, with its generation."""
    units: int
    """Units of the conversation up to there."""
    own: bytes
    """Hash of the conversation up to there within its family, 16 bytes."""
    wide: bytes
    """The same within the tenant."""
    state: EntryState = EntryState.HEAD


@dataclass(frozen=True, slots=True)
class IndexWrite:
    """An entry to be put under a key, in place of the session's former one there."""

    key: bytes
    """16 bytes."""
    entry: IndexEntry
    ttl_ms: int


class ConversationIndex(Protocol):
    """The index of each pool. Both calls are one round trip; both raise StoreAwayError, `remember` also Refused:
    STORE_FULL."""

    async def find(self, pool: str, keys: Sequence[bytes]) -> list[tuple[IndexEntry, ...]]:
        """The entries under each of at most `MAX_KEYS` keys, newest first."""
        ...

    async def remember(self, pool: str, writes: Sequence[IndexWrite]) -> None: ...


def encode_entry(entry: IndexEntry) -> bytes:
    """The entry without its pool, in a fixed number of bytes."""
    return _RECORD.pack(
        entry.state.value.encode(),
        entry.session_id.rpartition("/")[2].encode(),
        entry.head.generation,
        entry.head.length,
        entry.head.log_hash,
        entry.units,
        entry.own,
        entry.wide,
    )


def decode_entries(pool: str, stored: bytes | None) -> tuple[IndexEntry, ...]:
    """What was stored under a key. What another version wrote is as if it were not there."""
    if not stored or len(stored) % _RECORD.size:
        return ()
    return tuple(_entry(pool, *fields) for fields in _RECORD.iter_unpack(stored))


def _entry(
    pool: str,
    state: bytes,
    name: bytes,
    generation: int,
    length: int,
    log_hash: bytes,
    units: int,
    own: bytes,
    wide: bytes,
) -> IndexEntry:
    head = Head(length, log_hash if length else b"", generation)
    return IndexEntry(f"{pool}/{name.decode()}", head, units, own, wide, EntryState(state.decode()))


class MemoryConversationIndex:
    """`ConversationIndex` in this process."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives the time in ms."""
        self._clock = clock
        self._entries: dict[tuple[str, bytes], tuple[int, tuple[IndexEntry, ...]]] = {}

    async def find(self, pool: str, keys: Sequence[bytes]) -> list[tuple[IndexEntry, ...]]:
        return [self._under(pool, key) for key in keys]

    async def remember(self, pool: str, writes: Sequence[IndexWrite]) -> None:
        for write in writes:
            kept = [entry for entry in self._under(pool, write.key) if not _replaces(write.entry, entry)]
            entries = (write.entry, *kept)[:MAX_ENTRIES]
            self._entries[pool, write.key] = (self._clock() + write.ttl_ms, entries)

    def _under(self, pool: str, key: bytes) -> tuple[IndexEntry, ...]:
        expires_ms, entries = self._entries.get((pool, key), (0, ()))
        return entries if self._clock() < expires_ms else ()


def _replaces(new: IndexEntry, old: IndexEntry) -> bool:
    both_foreign = EntryState.OTHER_FAMILY is new.state is old.state
    return new.session_id == old.session_id or both_foreign
