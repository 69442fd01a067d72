"""`roost.store.moves.SessionMoves` in Redis."""

from typing import Any

from roost.store import codec
from roost.store.arguments import pool_keys
from roost.store.holds import HoldRecord
from roost.store.keys import MOVES_DONE, PoolKeys
from roost.store.link import RedisLink
from roost.store.moves import Move, Resident
from roost.store.records import State
from roost.store.residency import session_of
from roost.store.scripts import Arg, Call
from roost.store.session_scripts import SessionScripts

_BATCH = 500
"""Sessions read by one script, so that it does not hold others up."""


class RedisMoves:
    """See the interface for what each call does."""

    def __init__(self, link: RedisLink, scripts: SessionScripts) -> None:
        self._link = link
        self._scripts = scripts

    async def claim(self, pool: str, worker: str, gateway: str, lease_ms: int) -> bool:
        return await self._hold(pool, worker, gateway, gateway, lease_ms)

    async def finish(self, pool: str, worker: str, gateway: str, keep_ms: int) -> None:
        await self._hold(pool, worker, gateway, MOVES_DONE, keep_ms)

    async def _hold(self, pool: str, worker: str, gateway: str, value: str, lease_ms: int) -> bool:
        args: dict[str, Arg] = {"gateway": gateway, "value": value, "lease_ms": lease_ms}
        reply = await self._link.script("mover", Call({"mover": PoolKeys(pool).mover(worker)}, args))
        return bool(reply[0] == b"held")

    async def residents(self, pool: str, worker: str) -> list[Resident]:
        keys = PoolKeys(pool)
        fields = await self._link.run("HKEYS", keys.residency(worker))
        names = list(dict.fromkeys(session_of(name.decode()) for name in fields))
        residents = list[Resident]()
        for first in range(0, len(names), _BATCH):
            batch = names[first : first + _BATCH]
            rows = await self._link.script("residents", Call(more_keys=[*map(keys.session, batch)]))
            residents += [_resident(name, row) for name, row in zip(batch, rows, strict=True) if row]
        return residents

    async def move(self, move: Move) -> int:
        length, log_hash = codec.encode_head(move.head)
        args: dict[str, Arg] = {
            "gateway": move.gateway,
            "request": move.request,
            "worker": move.worker,
            "to": move.to,
            "length": length,
            "hash": log_hash,
            "generation": move.generation,
        }
        call = Call({"mover": pool_keys(move.session_id).mover(move.worker)}, args)
        reply = await self._scripts.run("move", move.session_id, lambda: call)
        return int(reply[1])


def _resident(session_id: str, row: list[Any]) -> Resident:
    tenant, owner, revision, state, live, *numbers = row
    length, steps, updated, moved, tool, expect, begin = numbers
    return Resident(
        session_id=session_id,
        tenant=tenant.decode(),
        owner=owner.decode(),
        log_tokens=int(length),
        model_revision=revision.decode() if int(steps) else "",
        busy=bool(live),
        closed=state.decode() == State.CLOSED,
        updated_ms=int(updated),
        moved_ms=int(moved or 0),
        hold=HoldRecord(tool.decode(), float(expect), int(begin)) if begin else None,
    )
