"""A worker's lease as tests publish it; what a test is about is given, the rest is small and valid."""

from typing import Any

from roost.contract.lease import WorkerLease

_FIELDS: dict[str, Any] = {
    "boot": "boot",
    "address": "127.0.0.1:1",
    "model": "m",
    "model_revision": "0123456789abcdef",
    "capacity_tokens": 1024,
    "max_running": 8,
}


def lease_of(worker: str, **fields: Any) -> WorkerLease:
    """A lease of `worker` with the given fields."""
    return WorkerLease(worker_id=worker, **{**_FIELDS, **fields})
