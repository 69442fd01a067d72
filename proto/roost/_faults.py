"""From a gRPC failure to an error of the SDK."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from roost import errors
from roost._records import Head
from roost.contract.reasons import DOMAIN

_BROKEN_CONNECTION = ("RST_STREAM", "Stream removed", "GOAWAY", "Connection reset", "Socket closed")
_Violations = list[tuple[str, str]]


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.RoostError:
    """The SDK's error for a failed call, with the failure as its cause."""
    explained = _explain(error)
    explained.__cause__ = error
    return explained


def _explain(error: grpc.aio.AioRpcError) -> errors.RoostError:
    info, retry_after, violations = _details(error)
    message = _message(error.details() or error.code().name, violations)
    if info is None:
        return _unexplained(error.code(), message)
    kind = errors.REASONS.get(info.reason) or errors.STATUSES.get(error.code(), errors.InternalError)
    failure = kind(
        message, status=error.code(), reason=info.reason, retry_after=retry_after, metadata=dict(info.metadata)
    )
    if isinstance(failure, errors.SessionRolledBackError):
        failure.actual = Head.from_metadata(failure.metadata)
    return failure


def _message(told: str, violations: _Violations) -> str:
    """The gateway's message, and those violations that it does not tell itself."""
    for field, why in violations:
        if told == why:
            told = f"{field}: {why}"
        elif why not in told:
            told = f"{told}; {field}: {why}"
    return told


def _unexplained(status: grpc.StatusCode, message: str) -> errors.RoostError:
    """A status without our ErrorInfo: something between this client and the gateway's own code answered."""
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


def _details(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, float | None, _Violations]:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads code, details, trailing_metadata
    except ValueError:
        return None, None, []
    info: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    violations: _Violations = []
    for detail in status.details if status else ():
        found, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(found) and found.domain == DOMAIN:
            info = found
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            violations = [(violation.field, violation.description) for violation in bad.field_violations]
    return info, retry_after, violations
