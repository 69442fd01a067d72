"""The contract's checks of requests, told as an error of the gateway."""

from roost.contract.reasons import Reason
from roost.contract.requests import (
    MAX_PAGE_SESSIONS,
    MAX_PAGE_STEPS,
    Violations,
    hold,
    open_session,
    page_size,
    schema_of_step,
    schemas_of_tools,
    step,
    step_of_role,
)
from roost_gateway.errors import invalid

__all__ = [
    "MAX_PAGE_SESSIONS",
    "MAX_PAGE_STEPS",
    "check",
    "hold",
    "open_session",
    "page_size",
    "schema_of_step",
    "schemas_of_tools",
    "step",
    "step_of_role",
]


def check(violations: Violations, reason: Reason = Reason.INVALID_REQUEST) -> None:
    """Raises GatewayError: INVALID_ARGUMENT with every violation."""
    found = list(violations)
    if found:
        raise invalid(found, reason)
