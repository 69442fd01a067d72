"""What sessions, tasks, roles and tenants may use, and how much of it they have used. Frozen values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class BudgetScope(StrEnum):
    """Whose use a budget counts."""

    SESSION = "session"
    TASK = "task"
    """All sessions of a tenant with the same task, forks and children included."""
    ROLE = "role"
    """All sessions of a role, in a window of time."""
    TENANT = "tenant"
    """All sessions of a tenant in the pool, in a window of time."""


class BudgetUnit(StrEnum):
    """What a budget counts."""

    TOKENS = "tokens"
    """New prompt tokens that no cache had, and output tokens. What is computed again of a log does not count."""
    GPU_SECONDS = "gpu_seconds"
    """Seconds of the workers' devices, as they measure each step."""
    STEPS = "steps"
    WALL_SECONDS = "wall_seconds"
    """Seconds since the first step began."""


class OnBudget(StrEnum):
    """What happens to a session when a budget is used up, in the spec's words."""

    REJECT = "Reject"
    """Its steps are refused."""
    ASK = "Ask"
    """It pauses until the budget is extended."""
    FOLD = "Fold"
    """Its log is folded when its own budget is used up, which then begins again."""


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The most that may be used; 0 means no limit."""

    tokens: int = 0
    gpu_seconds: int = 0
    steps: int = 0
    wall_seconds: int = 0
    window_seconds: int = 0
    """Use is counted in windows of so many seconds of Unix time; 0: from the first step on."""


DEFAULT_WINDOW_SECONDS = 86_400
"""Window of a role's or tenant's budget that names none."""


@dataclass(frozen=True, slots=True)
class RoleBudgets:
    """The budgets of a role, and what happens when one is used up."""

    session: BudgetLimits = BudgetLimits()  # frozen
    task: BudgetLimits = BudgetLimits()  # frozen
    role: BudgetLimits = BudgetLimits(window_seconds=DEFAULT_WINDOW_SECONDS)  # frozen
    on_budget: OnBudget = OnBudget.REJECT
    grace_steps: int = 1
    """Steps that a session may take after a budget is used up."""
    warn_percent: int = 80
    """From this part of a budget on, the results of steps say how much is used."""
    keep_turns: int = 2
    """Last turns of a log that stay as they are when it is folded."""


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How much of a budget is used."""

    scope: BudgetScope
    unit: BudgetUnit
    used: float
    """In `unit`; in the current window if the budget has one."""
    limit: float

    def __str__(self) -> str:
        return f"{self.scope} {self.unit} {self.used:.10g}/{self.limit:.10g}"

    def to_metadata(self) -> dict[str, str]:
        """The status as metadata of a refusal."""
        return {
            "budget_scope": self.scope.value,
            "budget_unit": self.unit.value,
            "budget_used": f"{self.used:.15g}",
            "budget_limit": f"{self.limit:.15g}",
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """The status in a refusal's metadata; None when it is missing or malformed."""
        try:
            return cls(
                BudgetScope(metadata["budget_scope"]),
                BudgetUnit(metadata["budget_unit"]),
                float(metadata["budget_used"]),
                float(metadata["budget_limit"]),
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class BudgetExtension:
    """By how much a client wants to raise the limits of a budget; not checked yet."""

    session_id: str
    scope: BudgetScope | None = BudgetScope.SESSION
    """SESSION, or TASK: that of the session's task. None: a scope that this version does not know."""
    tokens: int = 0
    gpu_seconds: float = 0.0
    steps: int = 0
    wall_seconds: float = 0.0
    request_id: str = ""
    """Idempotency key: the same key, given twice in a row, adds once. Empty: none."""
