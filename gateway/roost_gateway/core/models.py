"""The models that a caller may name, as APIs without pools know them."""

from dataclasses import dataclass

from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost_gateway.core.caller import Caller, pool_of_caller
from roost_gateway.fleet.pools import Pools


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of a pool. `name` is what requests call it."""

    name: str
    pool: str
    context_tokens: int


async def pool_of_model(pools: Pools, name: str, caller: Caller) -> PoolDocument:
    """Returns the pool that `name` stands for: a pool's own name, or a name of its model. Without a name it is the
    caller's only pool.

    Raises Refused: POOL_NOT_ALLOWED, POOL_NOT_FOUND, INVALID_REQUEST when several pools have the model, or there is not
    exactly one to choose from; StoreAwayError.
    """
    if not name or name in pools.names:
        return await pool_of_caller(pools, name, caller)
    served = [model for model in served_models(pools, caller) if model.name == name]
    if len(served) > 1:
        choice = ", ".join(model.pool for model in served)
        raise invalid([("model", f"several pools have {name[:200]!r}; name one of them: {choice}")])
    if not served:
        known = ", ".join(sorted({model.name for model in served_models(pools, caller)})) or "none"
        raise Refused(Reason.POOL_NOT_FOUND, f"there is no model {name[:200]!r} here; the models: {known}")
    return await pools.get(served[0].pool)


def served_models(pools: Pools, caller: Caller) -> list[ServedModel]:
    """The models of the pools that the caller may use, under each of their names once, in the order of the pools'
    names."""
    documents = (pools.known(pool) for pool in sorted(pools.names) if caller.may_use(pool))
    return [
        ServedModel(name, document.pool, document.token_limit)
        for document in documents
        if document is not None
        for name in dict.fromkeys((document.model or document.pool, *document.aliases))
    ]
