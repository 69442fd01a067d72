"""What the stack tells people while it starts, runs and stops."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One line for people; with `fraction` it is progress of a stage, from 0 to 1."""

    text: str
    fraction: float | None = None


Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Reports to nobody."""
