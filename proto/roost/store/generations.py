"""What a session's record says of its earlier logs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from roost.contract.heads import Head


@dataclass(frozen=True, slots=True)
class FormerLog:
    """The end of the generation before the current one."""

    head: Head
    steps: int
    """Steps that the current log had when it was begun."""
    model_revision: str


@dataclass(frozen=True, slots=True)
class Fold:
    """A generation that began with a summary."""

    generation: int
    steps: int
    """First steps of the log before, which its first step stands for."""


def steps_now(folds: Sequence[Fold], generation: int, steps: int) -> int | None:
    """How many steps of the current log stand for the first `steps` of an older generation; None when a fold since then
    ends after them."""
    for fold in folds:
        if fold.generation > generation and steps:
            if steps < fold.steps:
                return None
            steps -= fold.steps - 1
    return steps


def index_now(folds: Sequence[Fold], generation: int, index: int) -> int | None:
    """Index in the current log of a step that was committed in an older generation; None when it was folded."""
    steps = steps_now(folds, generation, index + 1)
    return None if steps is None else steps - 1
