"""A pool as its gateways see it."""

from collections.abc import Mapping
from typing import Any

from roost.contract.pool_document import PoolDocument, PoolRole


class PoolView(PoolDocument):
    """A pool's document, with what follows from it. Limits of 0 mean no limit."""

    __slots__ = ()

    @property
    def idle_ttl_ms(self) -> int:
        return int(self.idle_ttl_seconds * 1000)

    @property
    def token_limit(self) -> int:
        """Longest log of a session: the smaller of the model's context and the pool's limit."""
        limits = [limit for limit in (self.context_tokens, self.max_session_tokens) if limit]
        return min(limits) if limits else 0

    @property
    def priorities(self) -> list[int]:
        return [role.priority for role in self.roles]

    def role(self, name: str) -> PoolRole:
        """The role, or one without limits when the pool no longer has it."""
        return next((role for role in self.roles if role.name == name), PoolRole(name))


def read_pool(pool: str, document: Mapping[str, Any]) -> PoolView:
    """Reads a pool document. Raises ValueError when it cannot be read."""
    return PoolView.from_json(pool, document)
