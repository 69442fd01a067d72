"""Answers of /v1/responses that have been given, read from the logs of their sessions."""

from collections.abc import Iterable

from roost.contract.events import Committed
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import LoggedStep
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway
from roost_gateway.front.http.ids import AnswerName
from roost_gateway.recognition.conversation import Previous


async def logged_steps(gateway: Gateway, caller: Caller, names: Iterable[AnswerName]) -> dict[Previous, LoggedStep]:
    """Returns the committed steps of the answers. Raises Refused: SESSION_NOT_FOUND when one is missing, or is another
    tenant's; StoreAwayError."""
    log = dict[Previous, LoggedStep]()
    for previous in dict.fromkeys(name.previous for name in names):
        step = await gateway.logged_step(previous.session_id, previous.step_id, caller)
        if step is None:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such response, or its session has expired")
        log[previous] = step
    return log


def committed_of(step: LoggedStep) -> Committed:
    """The event that ended a logged step, as a client that repeats it gets it."""
    return Committed(
        step_id=step.step_id,
        output=step.output,
        finish_reason=step.finish_reason,
        usage=step.usage,
        head=step.head,
        index=step.index,
        queue_ms=0,
        first_token_ms=0,
        seed=step.sampling.seed or 0,
        replayed=True,
        output_tokens=step.usage.output_tokens,
        failovers=0,
        reasoning=step.reasoning,
        reasoning_tokens=step.reasoning_tokens,
    )
