"""Refusals over gRPC: as a rich status, as the end of a call, and read from a failed call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import NoReturn, Protocol

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost.contract.reasons import DOMAIN, STATUSES, Reason
from roost.contract.refused import Refused


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status code that carries `reason`."""
    return grpc.StatusCode[STATUSES[reason].grpc]


def rich_status(refused: Refused) -> grpc.Status:
    """The status of a refusal, with `ErrorInfo(reason, DOMAIN, metadata)`.

    `retry_seconds` adds `RetryInfo`, `violations` add `BadRequest`.
    """
    info = error_details_pb2.ErrorInfo(reason=refused.reason.value, domain=DOMAIN, metadata=refused.metadata)
    details: list[Message] = [info]
    if refused.retry_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(refused.retry_seconds)))
    if refused.violations:
        request = error_details_pb2.BadRequest()
        for field, why in refused.violations:
            request.field_violations.add(field=field, description=why)
        details.append(request)
    number: int = code_of(refused.reason).value[0]
    return rpc_status.to_status(
        status_pb2.Status(code=number, message=refused.message, details=[_packed(detail) for detail in details])
    )


class Abortable(Protocol):
    """What can be ended with a status: the context of a call, or of a stream that a call carries."""

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> NoReturn: ...


async def abort(context: Abortable, refused: Refused) -> NoReturn:
    """Ends a call with the status of `refused`. Raises `grpc.aio.AbortError`, as `context.abort` does."""
    status = rich_status(refused)  # grpc.aio has no `abort_with_status`
    await context.abort(status.code, status.details, tuple(status.trailing_metadata or ()))


@dataclass(frozen=True, slots=True)
class Details:
    """What a rich status has besides code and message; empty for a plain status."""

    reason: str = ""
    """`ErrorInfo.reason`: a `Reason`, or one that only a newer version knows. Empty when Roost sent no reason."""
    retry_seconds: float | None = None
    violations: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def details_of(error: grpc.aio.AioRpcError) -> Details:
    """The details of a failed call; empty when its status cannot be parsed."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads code, details, trailing_metadata
    except ValueError:
        return Details()
    reason, metadata = "", dict[str, str]()
    retry_seconds: float | None = None
    violations: tuple[tuple[str, str], ...] = ()
    for detail in status.details if status is not None else ():
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            violations = tuple((violation.field, violation.description) for violation in bad.field_violations)
    return Details(reason, retry_seconds, violations, metadata)


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _duration(seconds: float) -> duration_pb2.Duration:
    milliseconds = max(0, ceil(seconds * 1000))
    return duration_pb2.Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
