"""Turns failed gRPC calls into the SDK's errors."""

from collections.abc import Sequence

import grpc

from roost import errors
from roost.contract.heads import Head
from roost.grpc_errors import details_of

_BROKEN_CONNECTION = ("RST_STREAM", "Stream removed", "GOAWAY", "Connection reset", "Socket closed")


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.RoostError:
    """The SDK's error for a failed call, with the failure as its cause."""
    explained = _explain(error)
    explained.__cause__ = error
    return explained


def _explain(error: grpc.aio.AioRpcError) -> errors.RoostError:
    details = details_of(error)
    message = _message(error.details() or error.code().name, details.violations)
    if not details.reason:
        return _unexplained(error.code(), message)
    kind = errors.REASONS.get(details.reason) or errors.STATUSES.get(error.code(), errors.InternalError)
    failure = kind(
        message,
        status=error.code(),
        reason=details.reason,
        retry_after=details.retry_seconds,
        metadata=details.metadata,
    )
    if isinstance(failure, errors.SessionRolledBackError):
        failure.actual = Head.from_metadata(failure.metadata)
    return failure


def _message(message: str, violations: Sequence[tuple[str, str]]) -> str:
    """The gateway's message, and those violations that it does not contain."""
    for field, why in violations:
        if message == why:
            message = f"{field}: {why}"
        elif why not in message:
            message = f"{message}; {field}: {why}"
    return message


def _unexplained(status: grpc.StatusCode, message: str) -> errors.RoostError:
    """A status without Roost's ErrorInfo comes from gRPC or a proxy on the way to the gateway."""
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return errors.MessageTooLargeError(f"the request is too large: send less at once ({message})", status=status)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(f"the deadline passed before the call ended ({message})", status=status)
    broken = status is grpc.StatusCode.CANCELLED or (
        status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        and any(sign in message for sign in _BROKEN_CONNECTION)
    )
    kind = errors.UnavailableError if broken else errors.STATUSES.get(status, errors.InternalError)
    return kind(message, status=status)
