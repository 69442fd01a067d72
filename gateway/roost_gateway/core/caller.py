"""Who calls."""

from dataclasses import dataclass

DEFAULT_TENANT = "default"
"""Tenant of every caller when the gateway has no key file."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant and the pools that it may use; `*` stands for all pools."""

    tenant: str
    pools: frozenset[str]
    key_id: str = ""

    def may_use(self, pool: str) -> bool:
        return "*" in self.pools or pool in self.pools


ANYONE = Caller(DEFAULT_TENANT, frozenset({"*"}))
