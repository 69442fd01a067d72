"""What the stack reports to people while it starts, runs and stops."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for people, or the progress of a stage if it has a `fraction`, from 0 to 1."""

    text: str
    fraction: float | None = None


Report = Callable[[Notice], None]


def silent(notice: Notice) -> None:
    """Report nothing."""
