"""Committed steps by their ids, read from the logs of their sessions."""

from collections.abc import Iterable

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import LoggedStep
from roost.contract.steps import StepName
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway


async def logged_steps(gateway: Gateway, caller: Caller, names: Iterable[StepName]) -> dict[StepName, LoggedStep]:
    """Returns the committed steps. Raises Refused: SESSION_NOT_FOUND when one is missing, or is another tenant's;
    StoreAwayError."""
    log = dict[StepName, LoggedStep]()
    for name in dict.fromkeys(names):
        step = await gateway.logged_step(name.session_id, name.step_id, caller)
        if step is None:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such response, or its session has expired")
        log[name] = step
    return log
