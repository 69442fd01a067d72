"""The reasons for which the worker refuses or ends a call: a constructor for each."""

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_worker.server.attempts import Attempt, Ending

RETRY_SECONDS = 0.5


def invalid(message: str, *, field: str = "", reason: Reason = Reason.INVALID_REQUEST) -> Refused:
    violations = [(field, message)] if field else []
    return Refused(reason, message, violations=violations)


def step_too_long(log_tokens: int, prompt_tokens: int, limit: int, *, at_least: bool = False) -> Refused:
    """`at_least`: the prompt was not encoded to its end."""
    prompt = f"at least {prompt_tokens}" if at_least else str(prompt_tokens)
    return Refused(
        Reason.STEP_TOO_LONG,
        f"the log has {log_tokens} tokens and this step's prompt {prompt}: together they must be fewer than "
        f"the {limit} tokens that fit; shorten the messages or open a new session",
        metadata={"log_tokens": str(log_tokens), "prompt_tokens": str(prompt_tokens), "limit_tokens": str(limit)},
    )


def log_too_long(limit: int) -> Refused:
    return Refused(
        Reason.STEP_TOO_LONG,
        f"the log, rendered for this model, has more than the {limit} tokens that fit; open a new session",
        metadata={"limit_tokens": str(limit)},
    )


def session_too_long(prompt_tokens: int, limit: int, *, at_least: bool = False) -> Refused:
    """`at_least`: the texts were not encoded to their end."""
    return Refused(
        Reason.STEP_TOO_LONG,
        f"system text and tools have {'at least ' * at_least}{prompt_tokens} tokens, and leave no room in the {limit} "
        "tokens of a session; shorten them, or give fewer tools",
        metadata={"prompt_tokens": str(prompt_tokens), "limit_tokens": str(limit)},
    )


def cannot_render(why: str) -> Refused:
    return Refused(Reason.INVALID_REQUEST, why)


def fenced() -> Refused:
    message = "the session has a newer attempt or eviction"
    return Refused(Reason.ATTEMPT_FENCED, message)


def unknown_attempt() -> Refused:
    message = "this worker does not have the attempt's output; start the step again"
    return Refused(Reason.ATTEMPT_UNKNOWN, message)


def draining() -> Refused:
    message = "the worker is draining and takes no new steps"
    return Refused(Reason.WORKER_DRAINING, message, retry_seconds=RETRY_SECONDS)


def too_many_rebuilds(most: int) -> Refused:
    message = f"the worker rebuilds the session already, or {most} others; ask again when one is done"
    return Refused(Reason.QUEUE_FULL, message, retry_seconds=RETRY_SECONDS)


def not_idle() -> Refused:
    message = "the worker has other work, or no room for a session ahead of its return; ask again when it is idle"
    return Refused(Reason.QUEUE_FULL, message, retry_seconds=RETRY_SECONDS)


def lost() -> Refused:
    message = "the worker's engine is gone; the step can continue on another worker"
    return Refused(Reason.WORKER_LOST, message, retry_seconds=RETRY_SECONDS)


def failed(why: str = "its log says why") -> Refused:
    """The refusal of a call that another worker, or this one later, may well answer."""
    return Refused(Reason.WORKER_FAILED, f"the worker failed: {why}", retry_seconds=RETRY_SECONDS)


def not_ready() -> Refused:
    message = "the worker is still loading its model"
    return Refused(Reason.NO_WORKER, message, retry_seconds=RETRY_SECONDS)


def no_verdict(why: str, *, on: str = "the step's grammar was not compiled") -> Refused:
    """The refusal when the compile processes do not answer in time. `on`: what they were to do."""
    return Refused(Reason.QUEUE_TIMEOUT, f"{on}: {why}", retry_seconds=RETRY_SECONDS)


def wrong_revision(wanted: str, served: str) -> Refused:
    return Refused(
        Reason.MODEL_REVISION_MISMATCH,
        f"the worker serves revision {served}, not {wanted}",
        metadata={"served": served, "wanted": wanted},
    )


def wrong_secret() -> Refused:
    message = "metadata roost-pool-secret is not this pool's secret"
    return Refused(Reason.INVALID_API_KEY, message)


def head_mismatch(why: str) -> Refused:
    return Refused(Reason.HEAD_MISMATCH, why)


def ended(attempt: Attempt) -> Refused:
    """Return the refusal for an attempt that ended without a result."""
    match attempt.ending:
        case Ending.FENCED:
            return fenced()
        case Ending.CANCELLED:
            return Refused(Reason.CANCELLED, "the step was cancelled")
        case Ending.DEADLINE:
            message = "the step's deadline passed"
            return Refused(Reason.DEADLINE_EXCEEDED, message)
        case Ending.LOST:
            return lost()
        case Ending.GRAMMAR:
            message = f"the output cannot be constrained as requested: {attempt.error}"
            return invalid(message, field="format", reason=Reason.INVALID_SCHEMA)
        case Ending.UNREADABLE:
            return invalid(attempt.error)
    return failed(attempt.error)
