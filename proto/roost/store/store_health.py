"""What a check of the store says of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The result of checking the store's settings."""

    durable: bool
    """`appendonly yes` and `appendfsync always`, or a managed store that hides it."""
    problems: tuple[str, ...]
    """Wrong settings, each with its fix, for people."""
    run_id: str
    uptime_seconds: int = 0
    """Of the primary that was started last."""
    hidden: tuple[str, ...] = ()
    """Settings that could not be verified and are trusted, for people."""
