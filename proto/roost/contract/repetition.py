"""Calls that a session, or the sessions of a task, make again and again. Frozen values. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class OnRepetition(StrEnum):
    """What happens when calls repeat, in the spec's words."""

    REPORT = "Report"
    """The step's result says so."""
    STOP = "Stop"
    """Further steps of the turn are refused, too."""


@dataclass(frozen=True, slots=True)
class RepetitionRules:
    """When calls count as repeated; 0: never."""

    threshold: int = 0
    """So many equal steps of a session, or rounds of a cycle of steps, one after another."""
    task_threshold: int = 0
    """So many steps with equal calls among the last ones of a task's sessions."""
    on_repetition: OnRepetition = OnRepetition.REPORT

    @property
    def stops(self) -> bool:
        """Whether a session is stopped in a turn whose calls repeat."""
        return self.on_repetition is OnRepetition.STOP and bool(self.threshold or self.task_threshold)


@dataclass(frozen=True, slots=True)
class Repetition:
    """Equal calls with equal arguments, made again and again."""

    in_task: bool
    """Whether sessions of the task made them, one after another or at once; otherwise the session itself did."""
    period: int
    """Steps of a cycle; 1 when each step made the same calls."""
    times: int

    def __str__(self) -> str:
        return f"{'task' if self.in_task else 'session'} period {self.period} times {self.times}"
