"""`/v1/models`, in a form that both OpenAI's and Anthropic's clients read."""

from collections.abc import Sequence
from typing import Any

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.core.models import ServedModel
from roost_gateway.front.http.calls import HttpCall

_EPOCH = "1970-01-01T00:00:00Z"
"""Models have no date."""


async def list_models(call: HttpCall) -> None:
    """Answers with the models that the caller may use."""
    await call.respond(model_list(await call.conversations.models(call.caller)))


async def get_model(call: HttpCall) -> None:
    """Answers with one model. Raises Refused: POOL_NOT_FOUND."""
    name = call.scope["path_params"]["model"]
    for model in await call.conversations.models(call.caller):
        if model.name == name:
            return await call.respond(model_body(model))
    raise Refused(Reason.POOL_NOT_FOUND, f"there is no model {name[:100]!r}; GET /v1/models lists them")


def model_list(models: Sequence[ServedModel]) -> dict[str, Any]:
    """The list's body."""
    names = [model.name for model in models]
    ends = {"first_id": names[0], "last_id": names[-1]} if names else {"first_id": None, "last_id": None}
    return {"object": "list", "data": [model_body(model) for model in models], "has_more": False, **ends}


def model_body(model: ServedModel) -> dict[str, Any]:
    """One model's body. `max_model_len` is the context in tokens, as vLLM calls it."""
    openai = {"id": model.name, "object": "model", "created": 0, "owned_by": model.pool}
    anthropic = {"type": "model", "display_name": model.name, "created_at": _EPOCH}
    return {**openai, **anthropic, "max_model_len": model.context_tokens}
