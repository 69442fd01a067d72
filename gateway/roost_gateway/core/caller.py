"""Who calls, and what it may use: pools, their sessions and roles."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from roost.contract.names import pool_of
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid

if TYPE_CHECKING:  # `roost up` reads the file of API keys, and must not pay for the fleet
    from roost_gateway.fleet.pools import Pools

DEFAULT_TENANT = "default"
"""Tenant of every caller when the gateway has no key file."""


class Right(StrEnum):
    """What not every caller may do."""

    EXTEND_BUDGETS = "extendBudgets"


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant and the pools that it may use; `*` stands for all pools."""

    tenant: str
    pools: frozenset[str]
    key_id: str = ""
    rights: frozenset[Right] = frozenset()

    def may_use(self, pool: str) -> bool:
        return "*" in self.pools or pool in self.pools

    def require(self, right: Right) -> None:
        """Raises Refused: RIGHT_MISSING when the caller does not have the right."""
        if right not in self.rights:
            raise Refused(
                Reason.RIGHT_MISSING,
                f"this API key lacks the right {right}; add `rights: [{right}]` to its entry in the gateways' key file",
            )


ANYONE = Caller(DEFAULT_TENANT, frozenset({"*"}), rights=frozenset(Right))


def pool_of_session(session_id: str, caller: Caller) -> str:
    """Returns the session's pool. Raises Refused: SESSION_NOT_FOUND when the caller may not use it, or the name is
    malformed."""
    pool = pool_of(session_id)
    if pool is None or not caller.may_use(pool):
        raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session")
    return pool


async def pool_of_caller(pools: "Pools", name: str, caller: Caller) -> PoolDocument:
    """Returns the named pool, or without a name the caller's only one.

    Raises Refused: POOL_NOT_ALLOWED, POOL_NOT_FOUND, INVALID_REQUEST when there is not exactly one to choose from.
    """
    if name:
        if not caller.may_use(name):
            raise Refused(Reason.POOL_NOT_ALLOWED, f"this API key may not use pool {name!r}; name one of its own")
        return await pools.get(name)
    own = sorted(pool for pool in pools.names if caller.may_use(pool))
    if len(own) != 1:
        raise invalid([("pool", f"must be given: there are {len(own)} pools to choose from")])
    return await pools.get(own[0])


def role_of(pool: PoolDocument, name: str) -> PoolRole:
    """Returns the named role, or without a name the default one. Raises Refused: ROLE_NOT_FOUND."""
    if not name and pool.roles:
        return pool.roles[0]
    for role in pool.roles:
        if role.name == name:
            return role
    known = ", ".join(role.name for role in pool.roles) or "none"
    raise Refused(Reason.ROLE_NOT_FOUND, f"pool {pool.pool!r} has no role {name!r}; its roles: {known}")
