"""The pool document that gateways read from Redis (ARCHITECTURE.md, "Pool document"). Pure."""

from typing import Any

from roost_operator.api.spec import AgentPool, Role


def pool_document(pool: AgentPool, active_revision: str = "") -> dict[str, Any]:
    """What gateways need of `pool`; `active_revision` empty means that any worker's revision will do."""
    spec = pool.spec
    return {
        "pool": pool.pool,
        "model": {"name": spec.model.name, "contextTokens": spec.model.context_tokens},
        "activeRevision": active_revision,
        "roles": [_role(role) for role in spec.roles],
        "sessions": spec.sessions.model_dump(mode="json", by_alias=True),
        "admission": spec.admission.model_dump(mode="json", by_alias=True),
        "suspend": spec.suspend,
    }


def _role(role: Role) -> dict[str, Any]:
    return role.model_dump(mode="json", by_alias=True, exclude={"model"})
