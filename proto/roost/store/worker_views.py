"""Workers as they have published themselves, with what the ledger holds against them. Frozen values."""

from dataclasses import dataclass

from roost.contract.lease import WorkerLease
from roost.store.working_set import START_TARGET


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as published: its lease document and how long the lease lasts."""

    lease: WorkerLease
    ms_left: int
    """0 when it has run out, in the grace period."""
    reserved_tokens: int
    reserved_attempts: int
    live_tokens: int = 0
    """What the live sessions there need; `live_target` thousandths of its KV is how much that may be."""
    live_target: int = START_TARGET


@dataclass(frozen=True, slots=True)
class WorkerLook:
    """One worker as it is now."""

    view: WorkerView | None
    """None when it has no lease in force."""
    cached_tokens: int
    """Tokens of the session that it publishes as cached on its device."""
    warm_tokens: int = 0
    """Tokens behind those that it publishes as cached in host memory."""
