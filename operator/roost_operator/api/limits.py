"""The limits of a pool's model, as far as its spec does not lift them. Pure."""

from collections.abc import Iterable

from roost.contract.model_limits import ModelLimit
from roost_operator.api.model_spec import Thinking
from roost_operator.api.spec import AgentPool


def remaining(pool: AgentPool, limits: Iterable[str]) -> tuple[str, ...]:
    """Return each of the limits once, in their order, without those that do not hold in this pool."""
    lifted = {ModelLimit.THINKING_KEPT.value} if pool.spec.model.thinking is Thinking.DROP else set[str]()
    return tuple(limit for limit in dict.fromkeys(limits) if limit not in lifted)
