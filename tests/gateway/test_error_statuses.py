"""The store's refusals as a client is told of them."""

import pytest

from roost.contract.reasons import Reason
from roost_gateway.errors import as_gateway_error
from roost_gateway.store.records import LogHead, Refusal, RefusedError, StoreUnavailableError


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_has_a_status_a_reason_and_a_text_for_people(refusal: Refusal) -> None:
    told = as_gateway_error(RefusedError(refusal, "what Redis said", head=LogHead(3, b"h")))
    assert told is not None
    assert told.reason is not Reason.INTERNAL
    assert told.message != refusal.value
    assert told.metadata == {"head_length": "3", "head_log_hash": "68"}


def test_a_commit_by_another_revision_is_a_revision_mismatch() -> None:
    told = as_gateway_error(RefusedError(Refusal.WRONG_REVISION))
    assert told is not None
    assert told.reason is Reason.MODEL_REVISION_MISMATCH
    assert "open another session" in told.message


def test_a_refusal_that_passes_says_when_to_come_back() -> None:
    busy, at_once = (as_gateway_error(RefusedError(Refusal.BUSY, retry_ms=ms)) for ms in (1500, 0))
    assert busy is not None
    assert at_once is not None
    assert busy.reason is Reason.ANOTHER_STEP_RUNNING
    assert (busy.retry_seconds, at_once.retry_seconds) == (1.5, 1.0)


def test_an_error_that_nobody_foresaw_tells_nothing_of_the_inside() -> None:
    assert as_gateway_error(KeyError("secret")) is None
    away = as_gateway_error(StoreUnavailableError("redis://:password@host"))
    assert away is not None
    assert "password" not in away.message
