"""Budgets in a pool file, and as gateways read them."""

from typing import Any

import pytest
import yaml

from roost.contract.budgets import BudgetLimits, OnBudget, RoleBudgets
from roost.contract.pool_document import PoolDocument
from roost.contract.repetition import OnRepetition, RepetitionRules
from roost_operator.api.loader import PoolFileError, parse_pool
from roost_operator.api.pool_document import pool_document


def published(budgets: dict[str, Any], **spec: Any) -> PoolDocument:
    """The document of a pool with one role that has these budgets."""
    models = [{"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512}]
    pool = {
        "apiVersion": "roost.dev/v1alpha1",
        "kind": "AgentPool",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "models": models,
            "roles": [{"name": "agent", "maxOutputTokensPerStep": 64, "budgets": budgets}],
            **spec,
        },
    }
    return pool_document(parse_pool(yaml.safe_dump(pool)))


def test_budgets_are_what_gateways_read() -> None:
    limits = {"uncachedTokens": 1, "gpuSeconds": 2, "steps": 3, "wallSeconds": 4}
    window = {"uncachedTokens": 5, "gpuSeconds": 6, "steps": 7, "windowSeconds": 60}
    budgets = {
        "session": limits,
        "task": {**limits, "steps": 30},
        "role": window,
        "onBudget": "Fold",
        "keepTurns": 5,
        "graceSteps": 0,
        "warnAtPercent": 50,
    }
    document = published(budgets, tenantBudget={"gpuSeconds": 8})
    assert document.roles[0].budgets == RoleBudgets(
        session=BudgetLimits(1, 2, 3, 4),
        task=BudgetLimits(1, 2, 30, 4),
        role=BudgetLimits(5, 6, 7, 0, 60),
        on_budget=OnBudget.FOLD,
        grace_steps=0,
        warn_percent=50,
        keep_turns=5,
    )
    assert document.tenant_budget == BudgetLimits(gpu_seconds=8, window_seconds=86_400)
    assert PoolDocument.decode(document.pool, document.encode()) == document


def test_without_budgets_nothing_is_limited() -> None:
    document = published({})
    assert document.roles[0].budgets == RoleBudgets()
    assert document.tenant_budget == BudgetLimits(window_seconds=86_400)


@pytest.mark.parametrize(
    ("budgets", "field", "fix"),
    [
        ({"session": {"steps": -1}}, "session.steps", "use at least 0"),
        ({"role": {"windowSeconds": 59}}, "role.windowSeconds", "use at least 60"),
        ({"role": {"wallSeconds": 5}}, "role.wallSeconds", "known: uncachedTokens, gpuSeconds, steps, windowSeconds"),
        ({"onBudget": "ask"}, "onBudget", "use 'Reject', 'Ask' or 'Fold'"),
        ({"warnAtPercent": 0}, "warnAtPercent", "use at least 1"),
        ({"graceSteps": 101}, "graceSteps", "use at most 100"),
    ],
)
def test_a_refusal_names_the_field_and_the_fix(budgets: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(PoolFileError) as error:
        published(budgets)
    assert f"spec.roles[0].budgets.{field}: " in str(error.value)
    assert fix in str(error.value)


def test_rules_of_repetition_are_what_gateways_read() -> None:
    role = {"name": "a", "repetition": {"threshold": 3, "taskThreshold": 20, "onRepetition": "Stop"}}
    document = published({}, roles=[role])
    assert document.roles[0].repetition == RepetitionRules(3, 20, OnRepetition.STOP)
    with pytest.raises(PoolFileError, match=r"use at least 2, or 0 for never"):
        published({}, roles=[{"name": "a", "repetition": {"taskThreshold": 1}}])
