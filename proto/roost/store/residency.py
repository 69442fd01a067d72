"""What workers publish of the sessions that they have cached, a hash for each worker (`PoolKeys.residency`). Pure."""

from typing import NamedTuple

WARM_SUFFIX = ":warm"
"""No session's name has a colon."""


def warm_field(session: str) -> str:
    """Field of a session's tokens in host memory; its tokens on the device are under its name.

    Readers that know no host memory do not ask for it.
    """
    return f"{session}{WARM_SUFFIX}"


def session_of(field: str) -> str:
    """The session that a field is about."""
    return field.removesuffix(WARM_SUFFIX)


class Residency(NamedTuple):
    """What a worker has of a session."""

    worker_id: str
    cached_tokens: int
    """On its device."""
    warm_tokens: int = 0
    """Behind those, in host memory."""

    def order(self) -> tuple[int, int]:
        """Sort key: the more is cached, and of equals the more on the device."""
        return self.cached_tokens + self.warm_tokens, self.cached_tokens
