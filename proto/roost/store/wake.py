"""News of what was released. Frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wake:
    """Something was released: at a worker, in a line or, with neither, anywhere."""

    worker_id: str = ""
    """Worker at which something was released."""
    reserved_tokens: int | None = None
    """What is reserved there now, and what the live sessions there need, as far as that is known."""
    reserved_attempts: int | None = None
    live_tokens: int | None = None
    line: str | None = None
    """Line whose first step has left it."""
