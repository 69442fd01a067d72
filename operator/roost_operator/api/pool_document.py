"""The pool document that gateways read from Redis (docs/contracts.md, "Pool document"). Pure."""

from roost.contract.budgets import BudgetLimits, RoleBudgets
from roost.contract.nonce_lines import NonceLine
from roost.contract.pool_document import PoolDocument, PoolRole, PoolTenant
from roost.contract.repetition import RepetitionRules
from roost_operator.api.budget_spec import LimitsSpec, WindowSpec
from roost_operator.api.model_spec import RebuildAhead, Thinking
from roost_operator.api.spec import AgentPool, OnHold, OnModelChange, RoleSpec, Speculation, WorkingSetAdmission


def pool_document(pool: AgentPool, active_revision: str = "") -> PoolDocument:
    """What gateways need to know of `pool`. An empty `active_revision` lets steps run on any worker's revision."""
    spec = pool.spec
    return PoolDocument(
        pool=pool.pool,
        model=spec.model.name,
        aliases=spec.model.aliases,
        context_tokens=spec.model.context_tokens,
        drops_thinking=spec.model.thinking is Thinking.DROP,
        active_revision=active_revision,
        roles=tuple(_role(role) for role in spec.roles),
        idle_ttl_seconds=spec.sessions.idle_ttl_seconds,
        implicit_ttl_seconds=spec.sessions.implicit_ttl_seconds,
        nonce_lines=tuple(map(NonceLine.parse, spec.sessions.nonce_lines)),
        max_session_tokens=spec.sessions.max_tokens,
        migrates=spec.sessions.on_model_change is OnModelChange.MIGRATE,
        tenant_budget=_window(spec.tenant_budget),
        tenants=tuple(PoolTenant(tenant.name, tenant.weight) for tenant in spec.tenants),
        queue_limit=spec.admission.queue_limit,
        queue_timeout_seconds=spec.admission.queue_timeout_seconds,
        has_gate=spec.admission.working_set is WorkingSetAdmission.ENFORCED,
        max_hold_seconds=spec.admission.max_hold_seconds,
        rebuilds_ahead=spec.model.kv_cache.rebuild_ahead is RebuildAhead.HELD,
        suspend=spec.suspend,
    )


def _role(role: RoleSpec) -> PoolRole:
    return PoolRole(
        name=role.name,
        priority=role.priority,
        max_output_tokens=role.max_output_tokens_per_step,
        max_steps=role.max_steps_per_session,
        budget_tokens=role.session_token_budget,
        budgets=RoleBudgets(
            session=_limits(role.budgets.session),
            task=_limits(role.budgets.task),
            role=_window(role.budgets.role),
            on_budget=role.budgets.on_budget,
            grace_steps=role.budgets.grace_steps,
            warn_percent=role.budgets.warn_at_percent,
            keep_turns=role.budgets.keep_turns,
        ),
        repetition=RepetitionRules(
            threshold=role.repetition.threshold,
            task_threshold=role.repetition.task_threshold,
            on_repetition=role.repetition.on_repetition,
        ),
        refuses_held=role.on_hold is OnHold.REFUSE,
        prompt_lookup=role.speculation is Speculation.PROMPT_LOOKUP,
    )


def _limits(limits: LimitsSpec) -> BudgetLimits:
    return BudgetLimits(limits.uncached_tokens, limits.gpu_seconds, limits.steps, limits.wall_seconds)


def _window(limits: WindowSpec) -> BudgetLimits:
    return BudgetLimits(limits.uncached_tokens, limits.gpu_seconds, limits.steps, window_seconds=limits.window_seconds)
