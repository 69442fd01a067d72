"""The store's refusals, and its absence, as a client is told of them."""

import pytest

from roost.contract.budgets import BudgetStatus
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.store.budgets import status_from_text
from roost.store.link import WritesRefusedError
from roost.store.records import StoreAwayError
from roost.store.refusals import WORDS, refused
from roost_gateway.errors import as_refused

OF_BUDGETS = ("budget_exceeded", "budget_paused")
"""Words whose detail is a budget's status."""
STRUCTURED = (*OF_BUDGETS, "repeats")
"""Words whose detail is for programs."""


@pytest.mark.parametrize(("word", "reason"), WORDS.items())
def test_every_word_of_a_script_has_a_text_for_people(word: str, reason: Reason) -> None:
    error = refused(reason, head=Head(3, b"h"))
    assert error.reason is reason is not Reason.INTERNAL
    assert refused(reason).message != word
    assert error.metadata == {"head_length": "3", "head_log_hash": "68"}


@pytest.mark.parametrize(("word", "reason"), [item for item in WORDS.items() if item[0] not in STRUCTURED])
def test_a_client_is_told_its_own_figures_and_nothing_of_the_store(
    word: str, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    message = refused(reason, detail="why").message
    if word in ("budget", "step_limit", "too_long"):
        assert message == f"{refused(reason).message} (why)"
    else:
        assert message == refused(reason).message
        assert "why" in caplog.text


@pytest.mark.parametrize("word", OF_BUDGETS)
@pytest.mark.parametrize(
    ("status", "figures", "field"),
    [
        ("session:tokens:12:10", "the session has used 12 of 10 uncached tokens", "budgets.session.uncachedTokens"),
        ("task:gpu_us:2500000:2000000", "the task has used 2.5 of 2 seconds of GPU", "budgets.task.gpuSeconds"),
        ("tenant:steps:7:7", "the tenant has used 7 of 7 steps", "tenantBudget.steps"),
    ],
)
def test_a_refusal_at_a_budget_names_the_budget_its_figures_and_the_fix(
    word: str, status: str, figures: str, field: str
) -> None:
    error = refused(WORDS[word], head=Head(3, b"h"), detail=status)
    assert figures in error.message
    assert f"raise {'' if field.startswith('tenant') else 'roles[].'}{field} of the pool" in error.message
    assert BudgetStatus.from_metadata(error.metadata) == status_from_text(status)
    assert Head.from_metadata(error.metadata) == Head(3, b"h")
    assert error.retry_seconds is None


def test_a_budget_with_a_window_says_when_it_begins_again() -> None:
    error = refused(WORDS["budget_exceeded"], retry_ms=2500, detail="role:steps:7:7")
    assert "its window ends in 3 s" in error.message
    assert error.retry_seconds == 2.5


def test_a_session_that_is_stopped_learns_what_repeats_and_how_it_goes_on() -> None:
    message = refused(WORDS["repeats"], detail="session:2:3").message
    assert "session period 2 times 3" in message
    assert "goes on with a step that begins with a user's message" in message


def test_a_script_has_one_word_for_a_reason() -> None:
    assert len(set(WORDS.values())) == len(WORDS)


def test_a_commit_by_another_revision_is_a_revision_mismatch() -> None:
    error = refused(WORDS["wrong_revision"])
    assert error.reason is Reason.MODEL_REVISION_MISMATCH
    assert "open another session" in error.message


def test_a_refusal_that_passes_says_when_to_come_back() -> None:
    busy, at_once = (refused(WORDS["busy"], retry_ms=ms) for ms in (1500, 0))
    assert busy.reason is Reason.ANOTHER_STEP_RUNNING
    assert (busy.retry_seconds, at_once.retry_seconds) == (1.5, 1.0)
    assert refused(WORDS["closed"]).retry_seconds is None


def test_an_error_that_nobody_foresaw_tells_nothing_of_the_inside() -> None:
    assert as_refused(KeyError("secret")) is None
    away = as_refused(StoreAwayError("redis://:password@host"))
    assert away is not None
    assert away.reason is Reason.STORE_UNAVAILABLE
    assert "password" not in away.message


def test_a_store_that_refuses_to_write_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    refusing = as_refused(WritesRefusedError("redis://host refuses to write: it is a read-only replica"))
    assert refusing is not None
    assert refusing.reason is Reason.STORE_UNAVAILABLE
    assert "refuses to write" in refusing.message
    assert "replica" not in refusing.message
    assert "read-only replica" in caplog.text
