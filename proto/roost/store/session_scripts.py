"""Runs scripts about sessions, whose keys depend on what each session is: again, when a gateway did not know that."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from roost.store import codec
from roost.store.arguments import accepted, claim_keys, pool_keys, service_keys
from roost.store.keys import PoolKeys
from roost.store.known_keys import KnownKeys, Shape
from roost.store.link import RedisLink
from roost.store.records import Descriptor, RenewItem
from roost.store.scripts import Arg, Call

ANSWERS_LEARNED = 8
"""How often a script is run again with what it has replied that was not known."""
_RENEW_BATCH = 256


class SessionScripts:
    """Scripts about sessions, and what is known of the sessions' keys."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self.known_keys = KnownKeys()

    def learn(self, session_id: str, descriptor: Sequence[bytes]) -> None:
        """Notes what the session's keys are, by its descriptor in a script's reply."""
        fields = codec.pairs(descriptor)
        self.known_keys.learn_shape(session_id, Shape(int(fields["generation"]), fields.get("base", b"").decode()))

    def _learn(self, session_id: str, generations: int, base: bytes) -> None:
        self.known_keys.learn_shape(session_id, Shape(generations, base.decode()))

    async def run(self, name: str, session_id: str, call: Callable[[], Call], *, claims: bool = True) -> list[Any]:
        """Runs a script about one session, and returns its reply. The session's keys go before those that `call` has
        without a name. With `claims`, the script names the keys of reservations and waiters, too.

        Raises Refused for what the script refuses.
        """
        pool = pool_keys(session_id)
        for _ in range(ANSWERS_LEARNED):
            shape, own = self.known_keys.shape(session_id), call()
            whole = replace(
                own,
                keys={**(claim_keys(pool) if claims else {}), **own.keys},
                args={**own.args, "generations": shape.generations, "base": shape.base},
                more_keys=[*shape.keys(pool, session_id), *own.more_keys],
            )
            reply = await self._link.script(name, whole)
            if reply[0] != b"again":
                return accepted(reply)
            self._learn(session_id, *reply[1:3])
            if reply[3]:
                self.known_keys.learn_host(session_id, reply[3].decode())
        raise AssertionError(f"script {name} of {session_id} learns nothing")

    async def get(self, pool: PoolKeys, tenant: str, session_ids: Sequence[str]) -> list[Descriptor]:
        """The tenant's sessions of these names, without those that are gone. A second round trip for the first reading
        of a fork."""
        rows, missing = dict[str, Any](), list(session_ids)
        for _ in range(ANSWERS_LEARNED):
            touched = list[str]()
            for session_id in missing:
                family = self.known_keys.shape(session_id).family(session_id)
                touched += [pool.session(session_id), pool.session(family)]
            named = {"tenant_sessions": pool.tenant_sessions(tenant)}
            now, *replies = await self._link.script("get", Call(named, {"tenant": tenant}, touched, missing))
            rows.update(zip(missing, replies, strict=True))
            missing = [session_id for session_id in missing if rows[session_id] and rows[session_id][0] == b"again"]
            if not missing:
                given = [(session_id, rows[session_id]) for session_id in session_ids if rows[session_id]]
                return [codec.decode_descriptor(session_id, codec.pairs(row), now) for session_id, row in given]
            for session_id in missing:
                self._learn(session_id, *rows[session_id][1:3])
        raise AssertionError("sessions change their families")

    async def renew(self, pool: PoolKeys, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        """Renews attempts; False for each that is not live any more."""
        alive: list[bool] = []
        for first in range(0, len(items), _RENEW_BATCH):
            alive += await self._renew(pool, items[first : first + _RENEW_BATCH], lease_ms)
        return alive

    async def _renew(self, pool: PoolKeys, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        for _ in range(ANSWERS_LEARNED):
            touched, args = list[str](), list[Arg]()
            for item in items:
                shape = self.known_keys.shape(item.session_id)
                touched += shape.keys(pool, item.session_id)
                args += [item.ref.epoch, item.ref.nonce.hex(), shape.generations, shape.base]
            named = {
                "reservations": pool.reservations,
                "waiters": pool.waiters,
                "lines": pool.lines,
                "live_ends": pool.live_ends,
                **service_keys(pool),
            }
            reply = await self._link.script("renew", Call(named, {"lease_ms": lease_ms}, touched, args))
            if all(isinstance(answer, int) for answer in reply):
                return [answer == 1 for answer in reply]
            for item, answer in zip(items, reply, strict=True):
                if not isinstance(answer, int):
                    self._learn(item.session_id, *answer)
        raise AssertionError("sessions change their generations during live attempts")


def change_args(tenant: str) -> dict[str, Arg]:
    """Arguments that make hold, evict and delete idempotent: the script remembers the fresh nonce."""
    return {"tenant": tenant, "request": secrets.token_hex(16)}
