"""Deprecated fields of the spec, and what to write instead. Pure."""

from roost_operator.api.spec import AgentPool, OnPoolDeletion


def deprecations(pool: AgentPool) -> tuple[str, ...]:
    """A sentence for each deprecated field that `pool` sets: the field and what to do about it."""
    sessions = pool.spec.sessions
    if sessions.retention is None:
        return ()
    if sessions.on_pool_deletion is None:
        fix = f"write onPoolDeletion: {sessions.retention} instead, and remove retention"
    else:
        fix = f"it has no effect beside onPoolDeletion: {sessions.on_pool_deletion}; remove retention"
    if sessions.retention is OnPoolDeletion.KEEP:
        fix += " (the version before this one stored this value by itself in every pool; kubectl edit removes it)"
    return (f"spec.sessions.retention is deprecated and goes with the next version: {fix}",)
