"""What the store counts, and how it compares that with budgets. Pure.

Whole numbers, so that Lua adds them up exactly: GPU time in microseconds, other times in milliseconds.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Self

from roost.contract.budgets import BudgetLimits, BudgetScope, BudgetStatus, BudgetUnit

_STORED_AS = {
    BudgetUnit.TOKENS: ("tokens", 1),
    BudgetUnit.GPU_SECONDS: ("gpu_us", 1_000_000),
    BudgetUnit.STEPS: ("steps", 1),
    BudgetUnit.WALL_SECONDS: ("wall_ms", 1_000),
}
"""Counter of an account, and by what its values are divided."""
_UNITS = {counter: (unit, scale) for unit, (counter, scale) in _STORED_AS.items()}


@dataclass(frozen=True, slots=True)
class Spending:
    """What one step has used, or by how much limits are raised."""

    tokens: int = 0
    gpu_us: int = 0
    steps: int = 0
    wall_ms: int = 0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(
            self.tokens + other.tokens,
            self.gpu_us + other.gpu_us,
            self.steps + other.steps,
            self.wall_ms + other.wall_ms,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What a session, task, role or tenant has used, and what was added to its limits."""

    tokens: int = 0
    gpu_us: int = 0
    steps: int = 0
    since_ms: int = 0
    """When the first step began; 0 before that."""
    wall_ms: int = field(default=0, compare=False)
    """Time since then, when the account was read."""
    grace_steps: int = 0
    """Steps that a session has taken one after another since a budget was used up."""
    more: Spending = Spending()  # frozen
    """What was added to the limits."""
    last_request: str = ""
    """Id of the request that added last."""
    window: int = 0
    """Number of the window that it counts; 0 when it has none."""
    calls: str = ""
    """Hashes of the calls of the last steps (`roost.store.repetition`)."""
    repeats: str = ""
    """What the session's last step repeated, as scripts write it."""

    def read(self, now_ms: int, window_ms: int = 0) -> Self:
        """The account as it stands: empty when its window is over."""
        if window_ms and self.window != now_ms // window_ms:
            return type(self)(window=now_ms // window_ms)
        return replace(self, wall_ms=now_ms - self.since_ms if self.since_ms else 0)

    def add(self, spending: Spending) -> Self:
        return replace(
            self,
            tokens=self.tokens + spending.tokens,
            gpu_us=self.gpu_us + spending.gpu_us,
            steps=self.steps + spending.steps,
        )

    def renewed(self) -> Self:
        """Raises the limits by what was used when the account was read."""
        return replace(self, more=Spending(self.tokens, self.gpu_us, self.steps, self.wall_ms))

    def started(self, now_ms: int) -> Self:
        """Notes when the first step began, if this is it."""
        return self if self.since_ms else replace(self, since_ms=now_ms)

    def with_grace(self, grace_steps: int) -> Self:
        return replace(self, grace_steps=grace_steps)

    def extend(self, spending: Spending, request: str) -> Self:
        """Raises the limits, unless the same request did so last."""
        if request == self.last_request:
            return self
        return replace(self, more=self.more + spending, last_request=request)


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit, in the store's numbers."""

    scope: BudgetScope
    counter: str
    """The one of the account that is limited."""
    limit: int
    window_ms: int = 0

    def is_used(self, account: Account, percent: int) -> bool:
        """Whether an account, as it was read, has used at least `percent` of the budget."""
        used, limit = self._use(account)
        return 100 * used >= percent * limit

    def status_text(self, account: Account) -> str:
        """How much of the budget an account, as it was read, has used, as scripts write it."""
        used, limit = self._use(account)
        return f"{self.scope}:{self.counter}:{used}:{limit}"

    def status(self, account: Account) -> BudgetStatus:
        return status_from_text(self.status_text(account))

    def _use(self, account: Account) -> tuple[int, int]:
        """What is used, and the limit with what was added to it."""
        return getattr(account, self.counter), self.limit + getattr(account.more, self.counter)


def status_from_text(text: str) -> BudgetStatus:
    """A status as scripts write it: `scope:counter:used:limit`. Raises ValueError, KeyError for another text."""
    scope, counter, used, limit = text.split(":")
    unit, scale = _UNITS[counter]
    return BudgetStatus(BudgetScope(scope), unit, int(used) / scale, int(limit) / scale)


def statuses_from_texts(texts: Iterable[bytes]) -> tuple[BudgetStatus, ...]:
    """Statuses as scripts reply with them. Raises as `status_from_text`."""
    return tuple(status_from_text(text.decode()) for text in texts)


def budgets_of(scope: BudgetScope, limits: BudgetLimits) -> Iterable[Budget]:
    """The budgets of a scope, one for each limit that is set."""
    for unit, (counter, scale) in _STORED_AS.items():
        if limit := getattr(limits, unit.value):
            yield Budget(scope, counter, limit * scale, limits.window_seconds * 1000)


def spending(tokens: int, gpu_seconds: float, steps: int, wall_seconds: float = 0.0) -> Spending:
    """In the store's numbers."""
    return Spending(tokens, round(gpu_seconds * 1_000_000), steps, round(wall_seconds * 1000))


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """Where a step's use is counted, and the budgets that it is compared with."""

    tenant: str = ""
    role: str = ""
    task: str = ""
    """Empty: the session has no task, or no role of the pool limits tasks."""
    budgets: tuple[Budget, ...] = ()
    asks: bool = False
    grace_steps: int = 1
    warn_percent: int = 80
    task_ttl_ms: int = 0
    """Time without a step after which what a task has used is forgotten; 0: never."""
    repeats: int = 0
    """Thresholds of repeated calls in a session, and in a task; 0: they are not noticed."""
    task_repeats: int = 0
    stops: bool = False
    """Whether a session is stopped in a turn whose calls repeat."""

    @property
    def applying(self) -> tuple[Budget, ...]:
        """The budgets that concern the session: without a task it has none of a task."""
        return tuple(budget for budget in self.budgets if self.task or budget.scope is not BudgetScope.TASK)

    @property
    def windows(self) -> dict[BudgetScope, int]:
        """Length in ms of the windows of roles and tenants, as far as these are limited."""
        return {budget.scope: budget.window_ms for budget in self.budgets if budget.window_ms}

    def encode(self) -> str:
        """As scripts read it (_budgets.lua)."""
        return _encoded(
            self.applying,
            task=bool(self.task),
            task_ttl=self.task_ttl_ms,
            asks=self.asks,
            grace=self.grace_steps,
            warn=self.warn_percent,
            repeats=self.repeats,
            task_repeats=self.task_repeats,
            stops=self.stops,
        )


@lru_cache(maxsize=1024)  # a pool has few roles, and each of their steps asks twice
def _encoded(budgets: tuple[Budget, ...], **rules: int) -> str:
    rows = [[budget.scope, budget.counter, budget.limit, budget.window_ms] for budget in budgets]
    return json.dumps({"budgets": rows, **rules}, separators=(",", ":"))


NO_BUDGETS = BudgetRules()


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """Arguments of Extend."""

    session_id: str
    tenant: str
    scope: BudgetScope
    """SESSION or TASK."""
    task: str
    spending: Spending
    """What is added to the limits."""
    request_id: str
    task_ttl_ms: int
    """As in `BudgetRules`."""
