"""A worker's lease: what it publishes about itself so that gateways can choose it. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_RETIRED: Mapping[str, str | int] = {"render_version": "", "block_tokens": 0, "context_tokens": 0}
"""Fields that older gateways require in a lease, although they do not use them: without them a gateway that is still to
be upgraded would not know of upgraded workers."""


@dataclass(frozen=True, slots=True)
class WorkerLease:
    """One worker as its gateways see it. Published as JSON, renewed every `period`, dead after `ttl`.

    Token counts are KV slots. Rates are tokens per second as measured by the worker, 0 until known.
    """

    worker_id: str
    boot: str
    address: str
    model: str
    model_revision: str
    capacity_tokens: int
    max_running: int
    running: int = 0
    waiting: int = 0
    free_tokens: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    bytes_per_token: float = 4.0
    max_bytes_per_token: int = 0
    """The most `counted_bytes` of a message that one token stands for; 0: not known. The same for all workers of a
    model revision."""
    draining: bool = False
    restore_rate: float = 0.0
    """Tokens whose KV comes back from host memory."""
    leaving: bool = False
    """Whether it is about to drain, and takes steps of the sessions that it has cached and no others, so that these can
    be moved before."""
    leaving_seconds: float = 0.0
    """How much longer it is `leaving` at most."""
    idle: bool = False
    """Whether it has nothing to compute, and rebuilds sessions ahead of their returns when it is asked to."""
    limits: tuple[str, ...] = ()
    """Names of the model's limits (`contract.model_limits`)."""

    @property
    def stops(self) -> bool:
        """Whether the worker drains or is about to."""
        return self.draining or self.leaving

    @property
    def host(self) -> str:
        """The address without its port, as Kubernetes writes a pod's: an IPv6 address has no brackets."""
        return self.address.rsplit(":", 1)[0].strip("[]")

    def encode(self) -> str:
        return json.dumps({**asdict(self), **_RETIRED}, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str | bytes) -> "WorkerLease":
        """Read a lease, ignoring unknown fields, which another version wrote.

        Raise ValueError when it is not a lease, or a field is missing or of another type.
        """
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"not a worker's lease: {document!r:.80}")
        known = {field.name: field.type for field in fields(cls) if field.name in document}
        for name, kind in known.items():
            if not _is_of(kind, document[name]):
                raise ValueError(f"not a worker's lease: {name} is {document[name]!r:.80}")
        values: dict[str, Any] = {name: document[name] for name in known}
        if "limits" in values:
            values["limits"] = tuple(values["limits"])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a worker's lease: {error}") from error


def _is_of(kind: object, value: object) -> bool:
    """Whether a value from JSON fits a field of this type."""
    if isinstance(value, list):
        return kind == tuple[str, ...] and all(isinstance(item, str) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


RARE_BYTES = frozenset(range(0x20)) - frozenset(b"\t\n\r") | {0xC0, 0xC1, *range(0xF1, 0x100)}
"""Bytes of UTF-8 that a vocabulary may lack (SmolLM2's lacks 21 of them), so that they become no token: control
characters, and the first bytes of planes without characters."""


def counted_bytes(texts: Iterable[str]) -> int:
    """The UTF-8 bytes of the texts without the `RARE_BYTES`."""
    return sum(len(text.encode().translate(None, _RARE)) for text in texts)


def fewest_tokens(counted: int, max_bytes_per_token: int) -> int:
    """How many tokens text of so many `counted_bytes` is at least; 0 when `max_bytes_per_token` is."""
    return -(-counted // max_bytes_per_token) if max_bytes_per_token else 0


_RARE = bytes(sorted(RARE_BYTES))

LEASE_PERIOD_SECONDS = 1.0
"""How often a worker renews its lease and a gateway its attempts."""

LEASE_TTL_SECONDS = 5.0
"""How long a lease lasts without renewal: of a worker, of an attempt, of an orphan's output."""
LEASE_TTL_MS = round(LEASE_TTL_SECONDS * 1000)
