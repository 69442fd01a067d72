"""What a worker is called."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """This worker as its gateways name it."""

    worker_id: str
    boot: str
    address: str
    revision: str
