"""Budgets in the spec of a pool: what sessions, tasks, roles and tenants may use; and when calls count as repeated."""

from pydantic import Field, field_validator

from roost.contract.budgets import OnBudget
from roost.contract.repetition import OnRepetition
from roost_operator.api.fields import Fields

_MOST_TOKENS = 1_000_000_000_000_000
_MOST_SECONDS = 1_000_000_000
_DAY_SECONDS = 86_400


class UsageSpec(Fields):
    """Limits of what is used. 0 means no limit."""

    uncached_tokens: int = Field(
        default=0,
        ge=0,
        le=_MOST_TOKENS,
        description="Most new prompt tokens that no cache had, and output tokens; 0 means no limit. Tokens of a log "
        "that are computed again do not count.",
    )
    gpu_seconds: int = Field(
        default=0,
        ge=0,
        le=_MOST_SECONDS,
        description="Most seconds of GPU, as workers measure each step; 0 means no limit.",
    )
    steps: int = Field(default=0, ge=0, le=_MOST_TOKENS, description="Most steps; 0 means no limit.")


class LimitsSpec(UsageSpec):
    """Limits from the first step on."""

    wall_seconds: int = Field(
        default=0, ge=0, le=_MOST_SECONDS, description="Most seconds since the first step began; 0 means no limit."
    )


class WindowSpec(UsageSpec):
    """Limits in a window of time."""

    window_seconds: int = Field(
        default=_DAY_SECONDS,
        ge=60,
        le=31_536_000,
        description="Length of the window. Windows follow one another in Unix time, so that those of a day begin at "
        "midnight UTC; with each of them the budget begins again.",
    )


class BudgetsSpec(Fields):
    """Budgets of a role. A session whose budget is used up may take steps of grace; then it is refused or pauses."""

    session: LimitsSpec = Field(default_factory=LimitsSpec, description="What each session may use.")
    task: LimitsSpec = Field(
        default_factory=LimitsSpec,
        description="What all sessions of a tenant with the same task may use together, forks and children included.",
    )
    role: WindowSpec = Field(default_factory=WindowSpec, description="What all sessions of the role may use together.")
    on_budget: OnBudget = Field(
        default=OnBudget.REJECT,
        description="What happens when a budget of a session or task is used up. Reject refuses further steps. Ask "
        "pauses the session: its steps are refused until a client with the right extendBudgets extends the budget, and "
        "then it goes on where it was. Fold folds the log when the session's own budget is used up, which then begins "
        "again: the model writes a summary in place of all but the last turns; a task's budget is refused at.",
    )
    grace_steps: int = Field(
        default=1, ge=0, le=100, description="Steps that a session may take after a budget is used up, to wrap up."
    )
    warn_at_percent: int = Field(
        default=80,
        ge=1,
        le=100,
        description="From this part of a budget on, the results of steps say how much of it is used.",
    )
    keep_turns: int = Field(
        default=2, ge=0, le=1000, description="Last turns that stay as they are when onBudget folds the log."
    )


class RepetitionSpec(Fields):
    """When calls count as repeated: equal calls with equal arguments, whatever their ids and the spelling of JSON."""

    threshold: int = Field(
        default=0,
        ge=0,
        le=8,
        description="So many equal steps of a turn, one after another, or rounds of a cycle of at most 8 steps, count "
        "as repeated, 2 to 8; 0 means never.",
    )
    task_threshold: int = Field(
        default=0,
        ge=0,
        le=256,
        description="So many steps with equal calls, among the last 256 of a task's sessions that made some, count as "
        "repeated; 0 means never.",
    )
    on_repetition: OnRepetition = Field(
        default=OnRepetition.REPORT,
        description="What happens then. Report says so in the step's result. Stop also refuses further steps, until "
        "one begins with a user's message.",
    )

    @field_validator("threshold", "task_threshold")
    @classmethod
    def _is_repeated(cls, threshold: int) -> int:
        if threshold == 1:
            raise ValueError("1 would count every step; use at least 2, or 0 for never")
        return threshold
