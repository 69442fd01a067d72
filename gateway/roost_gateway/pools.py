"""What a gateway needs of a pool: its document, read with defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_QUEUE_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RoleView:
    """A session's part. Token and step limits of 0 mean no limit."""

    name: str
    priority: int = 0
    max_output_tokens: int = 0
    max_steps: int = 0
    budget_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool document (ARCHITECTURE.md). Limits of 0 mean no limit."""

    pool: str
    model: str
    context_tokens: int
    active_revision: str
    roles: Mapping[str, RoleView]
    """In the document's order: the first is the default."""
    idle_ttl_ms: int
    max_session_tokens: int
    queue_limit: int
    queue_timeout_seconds: float
    suspend: bool
    migrates: bool = True
    """Whether sessions of another revision move to the active one; else they end on their own."""

    @property
    def token_limit(self) -> int:
        """Longest log of a session: the smaller of the model's context and the pool's limit."""
        limits = [limit for limit in (self.context_tokens, self.max_session_tokens) if limit]
        return min(limits) if limits else 0

    @property
    def priorities(self) -> list[int]:
        return [role.priority for role in self.roles.values()]

    def role(self, name: str) -> RoleView:
        """The role, or one without limits when the pool no longer has it."""
        return self.roles.get(name) or RoleView(name)


def read_pool(pool: str, document: Mapping[str, Any]) -> PoolView:
    """Reads a pool document. Raises ValueError when it is none."""
    try:
        return _read(pool, document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"pool {pool}: its document in the store cannot be read: {error!r}") from error


def _read(pool: str, document: Mapping[str, Any]) -> PoolView:
    model = document.get("model") or {}
    sessions = document.get("sessions") or {}
    admission = document.get("admission") or {}
    roles = [_role(role) for role in document.get("roles") or ()]
    return PoolView(
        pool=pool,
        model=str(model.get("name", "")),
        context_tokens=int(model.get("contextTokens") or 0),
        active_revision=str(document.get("activeRevision") or ""),
        roles={role.name: role for role in roles},
        idle_ttl_ms=int(float(sessions.get("idleTTLSeconds") or 0) * 1000),
        max_session_tokens=int(sessions.get("maxTokens") or 0),
        queue_limit=int(admission.get("queueLimit") or 0),
        queue_timeout_seconds=float(admission.get("queueTimeoutSeconds") or DEFAULT_QUEUE_TIMEOUT_SECONDS),
        suspend=bool(document.get("suspend")),
        migrates=sessions.get("onModelChange") != "Refuse",
    )


def _role(role: Mapping[str, Any]) -> RoleView:
    return RoleView(
        name=str(role["name"]),
        priority=int(role.get("priority") or 0),
        max_output_tokens=int(role.get("maxOutputTokensPerStep") or 0),
        max_steps=int(role.get("maxStepsPerSession") or 0),
        budget_tokens=int(role.get("sessionTokenBudget") or 0),
    )
