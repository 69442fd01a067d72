"""Errors of the gateway and its store as refusals for clients, which reveal nothing internal."""

import logging

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.link import WritesRefusedError
from roost.store.records import StoreAwayError

log = logging.getLogger(__name__)

STORE_RETRY_SECONDS = 1.0


def as_refused(error: BaseException) -> Refused | None:
    """The refusal for an error of the gateway or its store; None for an unexpected error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, StoreAwayError):
        message = "the session store does not answer"
        if isinstance(error, WritesRefusedError):
            log.warning("%s", error)
            message = "the session store refuses to write; the gateway's log says why"
        return Refused(Reason.STORE_UNAVAILABLE, message, retry_seconds=STORE_RETRY_SECONDS)
    return None


def internal() -> Refused:
    """The refusal for an unexpected error."""
    return Refused(Reason.INTERNAL, "the gateway failed; its log has the cause", retry_seconds=1.0)
