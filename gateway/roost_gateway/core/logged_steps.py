"""Committed steps by their ids, read from the logs of their sessions."""

from collections import defaultdict
from collections.abc import Iterable

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.requests import MAX_PAGE_STEPS
from roost.contract.sessions import LoggedStep
from roost.contract.steps import StepName
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway


async def logged_steps(gateway: Gateway, caller: Caller, names: Iterable[StepName]) -> dict[StepName, LoggedStep]:
    """Returns the committed steps. Raises Refused: SESSION_NOT_FOUND when one is missing, or is another tenant's;
    StoreAwayError."""
    wanted = defaultdict[str, set[str]](set)
    for name in names:
        wanted[name.session_id].add(name.step_id)
    log = dict[StepName, LoggedStep]()
    for session_id, step_ids in wanted.items():
        token: str | None = ""
        while step_ids and token is not None:
            page = await gateway.list_steps(session_id, caller, page_size=MAX_PAGE_STEPS, page_token=token)
            log |= {StepName(session_id, step.step_id): step for step in page.steps if step.step_id in step_ids}
            step_ids -= {step.step_id for step in page.steps}
            token = page.next_page_token or None
        if step_ids:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such response, or its session has expired")
    return log
