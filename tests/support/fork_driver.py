"""What tests of forks need: sessions with steps, forks of them, and what their logs hold."""

from collections.abc import Awaitable
from typing import Any

import pytest

from roost.contract import loghash
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest
from roost.store.forks import fork_session
from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from store_driver import TENANT, commit_step, new_session


async def opened(store: SessionStore, steps: int = 0, **fields: Any) -> str:
    session_id = (await store.open(new_session(**fields))).session_id
    for number in range(steps):
        await commit_step(store, session_id, f"step-{number}", prompt=(number, number), ttl_ms=fields.get("ttl_ms", 0))
    return session_id


async def forked(store: SessionStore, session_id: str, at: Head | None = None, **fields: Any) -> Descriptor:
    return await fork_session(store, ForkRequest(session_id, at, **fields), TENANT)


async def log_of(store: SessionStore, session_id: str, generation: int = 1) -> tuple[list[str], list[int]]:
    entries = await store.log(session_id, generation, 0, 99)
    assert [entry.index for entry in entries] == list(range(len(entries)))
    ids = loghash.unpack_ids(await store.ids(session_id, generation, 0, 999))
    return [entry.step_id for entry in entries], list(ids)


async def why(call: Awaitable[Any]) -> Reason:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.reason


async def heads(store: SessionStore, session_id: str) -> list[Head]:
    return [entry.head for entry in await store.log(session_id, 1, 0, 99)]
