"""What can go wrong, and how it is told: one exception, and one table from the store's refusals to reasons.

`GatewayError` carries a `Reason`, and when to come back. `as_gateway_error` turns everything else
into one, without telling a caller anything of the inside.
"""

from collections.abc import Mapping, Sequence

from roost.contract.reasons import Reason
from roost_gateway.store.records import Refusal, RefusedError, StoreUnavailableError

STORE_RETRY_SECONDS = 1.0
WORKER_RETRY_SECONDS = 1.0


class GatewayError(Exception):
    """A call that fails with the status of `reason`. `violations` are pairs of field and what is wrong with it."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_seconds: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})


def invalid(violations: Sequence[tuple[str, str]], reason: Reason = Reason.INVALID_REQUEST) -> GatewayError:
    """INVALID_ARGUMENT that names each field."""
    message = "; ".join(f"{field}: {why}" for field, why in violations)
    return GatewayError(reason, f"invalid request: {message}", violations=violations)


def not_found(reason: Reason, message: str) -> GatewayError:
    return GatewayError(reason, message)


def unavailable(reason: Reason, message: str, retry_seconds: float = WORKER_RETRY_SECONDS) -> GatewayError:
    return GatewayError(reason, message, retry_seconds=retry_seconds)


def as_gateway_error(error: BaseException) -> GatewayError | None:
    """The status for an error of the gateway or its store; None for one that nobody foresaw."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, RefusedError):
        return _refused(error)
    if isinstance(error, StoreUnavailableError):
        return unavailable(Reason.STORE_UNAVAILABLE, "the session store does not answer", STORE_RETRY_SECONDS)
    return None


def internal() -> GatewayError:
    """What a caller hears of an unforeseen error: nothing of the inside."""
    return GatewayError(Reason.INTERNAL, "the gateway failed; its log has the cause", retry_seconds=1.0)


_REFUSALS: Mapping[Refusal, tuple[Reason, str]] = {
    Refusal.NOT_FOUND: (Reason.SESSION_NOT_FOUND, "there is no such session"),
    Refusal.CLOSED: (Reason.SESSION_CLOSED, "the session is closed; open another"),
    Refusal.ROLLED_BACK: (
        Reason.SESSION_ROLLED_BACK,
        "the store has lost the end of this session's log; read it with ListSteps and go on from its head",
    ),
    Refusal.HEAD_MISMATCH: (
        Reason.HEAD_MISMATCH,
        "the log has steps that expected_head does not know; read it with ListSteps",
    ),
    Refusal.BUSY: (Reason.ANOTHER_STEP_RUNNING, "another step of this session is running"),
    Refusal.BUDGET: (
        Reason.BUDGET_EXHAUSTED,
        "the session has used its role's token budget; open another",
    ),
    Refusal.STEP_LIMIT: (
        Reason.STEP_LIMIT_REACHED,
        "the session has taken all steps its role allows; open another",
    ),
    Refusal.STEP_ID_REUSED: (
        Reason.STEP_ID_REUSED,
        "step_id has been used for a step with other content; take a new one",
    ),
    Refusal.TOO_LONG: (
        Reason.STEP_TOO_LONG,
        "the session's log has no room for this step; send less, or open another session",
    ),
    Refusal.FENCED: (Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over"),
    Refusal.WRONG_REVISION: (
        Reason.MODEL_REVISION_MISMATCH,
        "the log is of another revision of the model; open another session",
    ),
    Refusal.STORE_FULL: (
        Reason.STORE_FULL,
        "the session store is full: delete sessions, or give it more memory",
    ),
}
_DEFAULT_RETRY = {Refusal.BUSY: 1.0, Refusal.STORE_FULL: 30.0}


def _refused(error: RefusedError) -> GatewayError:
    reason, message = _REFUSALS[error.refusal]
    retry = max(error.retry_ms, 0) / 1000 if error.retry_ms else _DEFAULT_RETRY.get(error.refusal)
    metadata = {}
    if error.head is not None:
        metadata = {"head_length": str(error.head.length), "head_log_hash": error.head.log_hash.hex()}
    return GatewayError(reason, message, retry_seconds=retry, metadata=metadata)
