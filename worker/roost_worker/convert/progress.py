"""How the preparation of a model reports its progress."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a stage's name and how much of it is done, 0 to 1."""
