"""Committed steps by their ids, read from the logs of their sessions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
        with sessions_of_responses():
            step = await gateway.logged_step(name.session_id, name.step_id, caller)
        if step is None:
            raise no_such_response()
        log[name] = step
    return log


@contextmanager
def sessions_of_responses() -> Iterator[None]:
    """Says that there is no such response where there is no such session: these clients know no sessions."""
    try:
        yield
    except Refused as error:
        if error.reason is not Reason.SESSION_NOT_FOUND:
            raise
        raise no_such_response() from error


def no_such_response() -> Refused:
    return Refused(
        Reason.SESSION_NOT_FOUND,
        "there is no such response: its session has expired or was deleted; send the conversation's messages instead",
    )
