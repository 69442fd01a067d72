"""The end of a session's log and an attempt at a step, as gateway, worker and SDK compare them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from roost.contract.loghash import EMPTY

NONCE_BYTES = 16
_LENGTH, _HASH = "head_length", "head_log_hash"


@dataclass(frozen=True, slots=True)
class Head:
    """End of a committed log: its tokens, and their hash (16 bytes; empty for an empty log)."""

    length: int = 0
    log_hash: bytes = EMPTY
    generation: int = field(default=0, compare=False)
    """Number of the log that it ends; 0 when that is unknown or clear from the context."""

    def to_metadata(self) -> dict[str, str]:
        """The head as metadata of a refusal."""
        return {_LENGTH: str(self.length), _HASH: self.log_hash.hex()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """The head in a refusal's metadata; None when it is missing or malformed."""
        try:
            return cls(int(metadata[_LENGTH]), bytes.fromhex(metadata.get(_HASH, "")))
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """An attempt at a step. Epochs order the attempts of a session; the nonce distinguishes two of the same epoch."""

    epoch: int
    nonce: bytes = b""
    """16 random bytes; empty for an eviction, which takes an epoch without being an attempt."""


NO_ATTEMPT = AttemptRef(0)
