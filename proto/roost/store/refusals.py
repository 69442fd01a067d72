"""What the store refuses, as the error that a client gets."""

import logging
import math
from collections.abc import Mapping

from roost.contract.budgets import BudgetScope, BudgetStatus, BudgetUnit
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.budgets import status_from_text
from roost.store.repetition import repetition_from_text

_log = logging.getLogger(__name__)

WORDS: Mapping[str, Reason] = {
    "not_found": Reason.SESSION_NOT_FOUND,  # no such session, or another tenant's
    "closed": Reason.SESSION_CLOSED,
    "rolled_back": Reason.SESSION_ROLLED_BACK,  # the log is shorter than expected_head, or differs at that length
    "head_mismatch": Reason.HEAD_MISMATCH,  # the log is longer: the client has missed a step
    "busy": Reason.ANOTHER_STEP_RUNNING,  # another step's attempt is live; the retry is what is left of its lease
    "budget": Reason.BUDGET_EXHAUSTED,
    "budget_exceeded": Reason.BUDGET_EXCEEDED,  # the detail is the budget's status; the retry, the end of its window
    "budget_paused": Reason.BUDGET_PAUSED,  # the same, of a budget that can be extended
    "repeats": Reason.REPETITION_STOPPED,  # the detail is what repeats
    "step_limit": Reason.STEP_LIMIT_REACHED,
    "step_id_reused": Reason.STEP_ID_REUSED,  # the same id with other content
    "killed_workers": Reason.STEP_KILLED_WORKERS,  # the step is in quarantine; the retry is what is left of that
    "too_long": Reason.STEP_TOO_LONG,
    "fenced": Reason.ATTEMPT_FENCED,  # a newer attempt has taken the place of this one
    "store_full": Reason.STORE_FULL,
    "wrong_revision": Reason.MODEL_REVISION_MISMATCH,  # a commit by another model revision than the log's
}
"""A script's word for why it wrote nothing."""

_MESSAGES: Mapping[Reason, str] = {
    Reason.SESSION_NOT_FOUND: "there is no such session",
    Reason.SESSION_CLOSED: "the session is closed; open another",
    Reason.SESSION_ROLLED_BACK: (
        "the store has lost the end of this session's log; read it with ListSteps and go on from its head"
    ),
    Reason.HEAD_MISMATCH: "the log has steps that expected_head does not know; read it with ListSteps",
    Reason.ANOTHER_STEP_RUNNING: "another step of this session is running",
    Reason.BUDGET_EXHAUSTED: "the session has used its role's token budget; open another",
    Reason.BUDGET_EXCEEDED: "a budget is used up",
    Reason.BUDGET_PAUSED: "the session is paused, since a budget is used up",
    Reason.REPETITION_STOPPED: (
        "the session is stopped, since its calls repeat; it goes on with a step that begins with a user's message"
    ),
    Reason.STEP_LIMIT_REACHED: "the session has taken all steps its role allows; open another",
    Reason.STEP_ID_REUSED: "step_id has been used for a step with other content; take a new one",
    Reason.STEP_KILLED_WORKERS: (
        "workers died while they ran this step; change the step, or send it again when the time given is over"
    ),
    Reason.STEP_TOO_LONG: "the session's log has no room for this step; send less, or open another session",
    Reason.ATTEMPT_FENCED: "a newer attempt has taken this step over",
    Reason.STORE_FULL: "the session store is full: delete sessions, or give it more memory",
    Reason.MODEL_REVISION_MISMATCH: "the log is of another revision of the model; open another session",
}
_DETAILED = (
    Reason.BUDGET_EXHAUSTED,
    Reason.REPETITION_STOPPED,
    Reason.STEP_LIMIT_REACHED,
    Reason.STEP_TOO_LONG,
)
"""Refusals whose detail has the client's own figures. Details of others are for those who run the store."""
_OF_BUDGETS = (Reason.BUDGET_EXCEEDED, Reason.BUDGET_PAUSED)
"""Refusals whose detail is a budget's status."""
_FIELDS = {
    BudgetScope.SESSION: "roles[].budgets.session",
    BudgetScope.TASK: "roles[].budgets.task",
    BudgetScope.ROLE: "roles[].budgets.role",
    BudgetScope.TENANT: "tenantBudget",
}
_UNITS = {
    BudgetUnit.TOKENS: ("uncachedTokens", "uncached tokens"),
    BudgetUnit.GPU_SECONDS: ("gpuSeconds", "seconds of GPU"),
    BudgetUnit.STEPS: ("steps", "steps"),
    BudgetUnit.WALL_SECONDS: ("wallSeconds", "seconds since the first step"),
}
"""Field of the spec, and what people read."""
_DEFAULT_RETRY_SECONDS = {Reason.ANOTHER_STEP_RUNNING: 1.0, Reason.STORE_FULL: 30.0}


def refused(reason: Reason, *, retry_ms: int = 0, head: Head | None = None, detail: str = "") -> Refused:
    """The store's refusal for one of the reasons in `WORDS`. `head` is the log's. `detail` joins the message if it says
    something of the client's own figures, else only the log."""
    if detail and reason in _OF_BUDGETS:
        return _budget_refused(reason, status_from_text(detail), retry_ms, head)
    if detail and reason is Reason.REPETITION_STOPPED:
        detail = str(repetition_from_text(detail))
    message = _MESSAGES[reason]
    if detail and reason not in _DETAILED:
        _log.warning("%s: %s", message, detail)
        detail = ""
    return Refused(
        reason,
        f"{message} ({detail})" if detail else message,
        retry_seconds=max(retry_ms, 0) / 1000 if retry_ms else _DEFAULT_RETRY_SECONDS.get(reason),
        metadata=head.to_metadata() if head is not None else {},
    )


def _budget_refused(reason: Reason, status: BudgetStatus, retry_ms: int, head: Head | None) -> Refused:
    field, unit = _UNITS[status.unit]
    fix = f"raise {_FIELDS[status.scope]}.{field} of the pool"
    if retry_ms:
        fix = f"its window ends in {math.ceil(retry_ms / 1000)} s; or {fix}"
    elif reason is Reason.BUDGET_PAUSED:
        fix = f"a client with the right extends it (`roost sessions extend`); or {fix}"
    elif status.scope is BudgetScope.SESSION:
        fix = f"open another session; or {fix}"
    return Refused(
        reason,
        f"{_MESSAGES[reason]}: the {status.scope} has used {status.used:.10g} of {status.limit:.10g} {unit}; {fix}",
        retry_seconds=retry_ms / 1000 if retry_ms else None,
        metadata={**(head.to_metadata() if head is not None else {}), **status.to_metadata()},
    )
