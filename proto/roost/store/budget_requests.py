"""What the store is asked for by the budgets of a pool. Pure."""

import secrets

from roost.contract import requests
from roost.contract.budgets import BudgetExtension, BudgetScope, OnBudget
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.refused import check
from roost.store.budgets import BudgetRules, ExtendRequest, budgets_of, spending
from roost.store.records import Descriptor


def budget_rules(tenant: str, task: str, role: PoolRole, pool: PoolDocument) -> BudgetRules:
    """The rules for a step of a session of this role and task."""
    budgets = role.budgets
    limits = {
        BudgetScope.SESSION: budgets.session,
        BudgetScope.TASK: budgets.task,
        BudgetScope.ROLE: budgets.role,
        BudgetScope.TENANT: pool.tenant_budget,
    }
    return BudgetRules(
        tenant=tenant,
        role=role.name,
        task=task if _counts_tasks(pool) else "",
        budgets=tuple(budget for scope, of_scope in limits.items() for budget in budgets_of(scope, of_scope)),
        asks=budgets.on_budget is OnBudget.ASK,
        grace_steps=budgets.grace_steps,
        warn_percent=budgets.warn_percent,
        task_ttl_ms=pool.idle_ttl_ms,
        repeats=role.repetition.threshold,
        task_repeats=role.repetition.task_threshold,
        stops=role.repetition.stops,
    )


def _counts_tasks(pool: PoolDocument) -> bool:
    """Whether a role of the pool limits tasks, or notices their repeated calls: sessions of all roles share a task."""
    return any(
        role.repetition.task_threshold or any(budgets_of(BudgetScope.TASK, role.budgets.task)) for role in pool.roles
    )


def checked_extension(extension: BudgetExtension, session: Descriptor, pool: PoolDocument) -> ExtendRequest:
    """What Extend writes. Raises Refused: INVALID_REQUEST for what the session's role does not allow."""
    budgets = pool.role(session.role).budgets
    check(requests.extension_of_role(extension, session.role, budgets, session.task))
    assert extension.scope is not None, "it has been checked"
    return ExtendRequest(
        session_id=session.session_id,
        tenant=session.tenant,
        scope=extension.scope,
        task=session.task,
        spending=spending(extension.tokens, extension.gpu_seconds, extension.steps, extension.wall_seconds),
        request_id=extension.request_id or secrets.token_hex(16),
        task_ttl_ms=pool.idle_ttl_ms,
    )
