"""Budgets and rules of repetition in the pool document, in the spec's own words (docs/contracts.md). Pure."""

from collections.abc import Mapping
from typing import Any

from roost.contract.budgets import DEFAULT_WINDOW_SECONDS, BudgetLimits, OnBudget, RoleBudgets
from roost.contract.document_fields import field_value
from roost.contract.repetition import OnRepetition, RepetitionRules


def limits_to_json(limits: BudgetLimits) -> dict[str, int]:
    return {
        "uncachedTokens": limits.tokens,
        "gpuSeconds": limits.gpu_seconds,
        "steps": limits.steps,
        "wallSeconds": limits.wall_seconds,
        "windowSeconds": limits.window_seconds,
    }


def limits_from_json(limits: Mapping[str, Any], where: str, *, in_windows: bool = False) -> BudgetLimits:
    """`in_windows`: use is counted in windows of time. Raises ValueError that names the field of another type."""
    window_seconds = field_value(limits, where, "windowSeconds", 0) or DEFAULT_WINDOW_SECONDS
    return BudgetLimits(
        tokens=field_value(limits, where, "uncachedTokens", 0),
        gpu_seconds=field_value(limits, where, "gpuSeconds", 0),
        steps=field_value(limits, where, "steps", 0),
        wall_seconds=0 if in_windows else field_value(limits, where, "wallSeconds", 0),
        window_seconds=window_seconds if in_windows else 0,
    )


def role_budgets_to_json(budgets: RoleBudgets) -> dict[str, Any]:
    return {
        "session": limits_to_json(budgets.session),
        "task": limits_to_json(budgets.task),
        "role": limits_to_json(budgets.role),
        "onBudget": budgets.on_budget.value,
        "graceSteps": budgets.grace_steps,
        "warnAtPercent": budgets.warn_percent,
        "keepTurns": budgets.keep_turns,
    }


def role_budgets_from_json(budgets: Mapping[str, Any], where: str) -> RoleBudgets:
    """Raises ValueError that names the field of another type."""
    defaults = RoleBudgets()

    def limits(scope: str, *, in_windows: bool = False) -> BudgetLimits:
        part = field_value(budgets, where, scope, dict[str, Any]())
        return limits_from_json(part, f"{where}{scope}.", in_windows=in_windows)

    return RoleBudgets(
        session=limits("session"),
        task=limits("task"),
        role=limits("role", in_windows=True),
        on_budget=_on_budget(field_value(budgets, where, "onBudget", "")),
        grace_steps=field_value(budgets, where, "graceSteps", defaults.grace_steps),
        warn_percent=field_value(budgets, where, "warnAtPercent", defaults.warn_percent),
        keep_turns=field_value(budgets, where, "keepTurns", defaults.keep_turns),
    )


def _on_budget(word: str) -> OnBudget:
    """Rejects for a word of a newer version."""
    return OnBudget(word) if word in set(OnBudget) else OnBudget.REJECT


def repetition_to_json(rules: RepetitionRules) -> dict[str, Any]:
    return {
        "threshold": rules.threshold,
        "taskThreshold": rules.task_threshold,
        "onRepetition": rules.on_repetition.value,
    }


def repetition_from_json(rules: Mapping[str, Any], where: str) -> RepetitionRules:
    """Raises ValueError that names the field of another type."""
    word = field_value(rules, where, "onRepetition", "")
    return RepetitionRules(
        threshold=field_value(rules, where, "threshold", 0),
        task_threshold=field_value(rules, where, "taskThreshold", 0),
        on_repetition=OnRepetition(word) if word in set(OnRepetition) else OnRepetition.REPORT,
    )
