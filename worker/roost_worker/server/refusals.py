"""Why the worker refuses or ends a call: one exception, and a constructor for each reason."""

from collections.abc import Mapping, Sequence

import grpc

from roost.contract.reasons import Reason
from roost.contract.status import rich_status
from roost_worker.server.attempts import Attempt, Ending

RETRY_SECONDS = 0.5


class RefusedError(Exception):
    """Ends the call with this status. `metadata` goes into ErrorInfo, `violations` into BadRequest."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_seconds: float | None = None,
        metadata: Mapping[str, str] = {},
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message
        self._retry_seconds, self._metadata, self._violations = retry_seconds, metadata, violations

    def status(self) -> grpc.Status:
        return rich_status(
            self.reason,
            self.message,
            retry_seconds=self._retry_seconds,
            metadata=self._metadata,
            violations=self._violations,
        )


def invalid(message: str, *, field: str = "", reason: Reason = Reason.INVALID_REQUEST) -> RefusedError:
    violations = [(field, message)] if field else []
    return RefusedError(reason, message, violations=violations)


def step_too_long(log_tokens: int, prompt_tokens: int, limit: int) -> RefusedError:
    return RefusedError(
        Reason.STEP_TOO_LONG,
        f"the log has {log_tokens} tokens and this step's prompt {prompt_tokens}: together they must be fewer than "
        f"the {limit} tokens that fit; shorten the messages or open a new session",
        metadata={"log_tokens": str(log_tokens), "prompt_tokens": str(prompt_tokens), "limit_tokens": str(limit)},
    )


def log_too_long(limit: int) -> RefusedError:
    return RefusedError(
        Reason.STEP_TOO_LONG,
        f"rendered for this model the log has more than the {limit} tokens that fit; open a new session",
        metadata={"limit_tokens": str(limit)},
    )


def cannot_render(why: str) -> RefusedError:
    return RefusedError(Reason.INVALID_REQUEST, why)


def fenced() -> RefusedError:
    message = "a newer attempt or eviction of the session was seen"
    return RefusedError(Reason.ATTEMPT_FENCED, message)


def unknown_attempt() -> RefusedError:
    message = "this worker does not have the attempt's output; start the step again"
    return RefusedError(Reason.ATTEMPT_UNKNOWN, message)


def draining() -> RefusedError:
    message = "the worker drains and takes no new steps"
    return RefusedError(Reason.WORKER_DRAINING, message, retry_seconds=RETRY_SECONDS)


def lost() -> RefusedError:
    message = "the worker's engine is gone; the step can continue on another worker"
    return RefusedError(Reason.WORKER_LOST, message, retry_seconds=RETRY_SECONDS)


def not_ready() -> RefusedError:
    message = "the worker is still loading its model"
    return RefusedError(Reason.NO_WORKER, message, retry_seconds=RETRY_SECONDS)


def wrong_revision(wanted: str, served: str) -> RefusedError:
    return RefusedError(
        Reason.MODEL_REVISION_MISMATCH,
        f"the worker serves revision {served}, not {wanted}",
        metadata={"served": served, "wanted": wanted},
    )


def wrong_secret() -> RefusedError:
    message = "metadata roost-pool-secret is not this pool's secret"
    return RefusedError(Reason.INVALID_API_KEY, message)


def head_mismatch(why: str) -> RefusedError:
    return RefusedError(Reason.HEAD_MISMATCH, why)


def ended(attempt: Attempt) -> RefusedError:
    """Why an attempt that ended without a result did so."""
    match attempt.ending:
        case Ending.FENCED:
            return fenced()
        case Ending.CANCELLED:
            return RefusedError(Reason.CANCELLED, "the step was cancelled")
        case Ending.DEADLINE:
            message = "the step's deadline passed"
            return RefusedError(Reason.DEADLINE_EXCEEDED, message)
        case Ending.LOST:
            return lost()
        case Ending.GRAMMAR:
            message = f"the output cannot be constrained so: {attempt.error}"
            return invalid(message, field="format", reason=Reason.INVALID_SCHEMA)
    return RefusedError(Reason.INTERNAL, f"the engine failed the step: {attempt.error}")
