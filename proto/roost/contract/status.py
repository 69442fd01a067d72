"""Errors on the wire: one builder of rich statuses for gateway and worker, and its aborts. Parsing is the SDK's."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost.contract.reasons import DOMAIN, STATUSES, Reason


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status code that carries `reason`."""
    return grpc.StatusCode[STATUSES[reason].grpc]


def rich_status(
    reason: Reason,
    message: str,
    *,
    retry_seconds: float | None = None,
    metadata: Mapping[str, str] = {},
    violations: Sequence[tuple[str, str]] = (),
) -> grpc.Status:
    """The status that carries `reason`, with `ErrorInfo(reason, DOMAIN, metadata)`.

    `retry_seconds` adds `RetryInfo`: when coming back may help. `violations`, pairs of field and what is wrong with it,
    add `BadRequest`.
    """
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN, metadata=dict(metadata))]
    if retry_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(retry_seconds)))
    if violations:
        fields = [error_details_pb2.BadRequest.FieldViolation(field=name, description=why) for name, why in violations]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    number: int = code_of(reason).value[0]
    return rpc_status.to_status(
        status_pb2.Status(code=number, message=message, details=[_packed(detail) for detail in details])
    )


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]",
    reason: Reason,
    message: str,
    *,
    retry_seconds: float | None = None,
    metadata: Mapping[str, str] = {},
    violations: Sequence[tuple[str, str]] = (),
) -> NoReturn:
    """Ends a call with `rich_status`. Raises `grpc.aio.AbortError`, as `context.abort` does."""
    await abort_with(
        context,
        rich_status(reason, message, retry_seconds=retry_seconds, metadata=metadata, violations=violations),
    )


async def abort_with(context: "grpc.aio.ServicerContext[Any, Any]", status: grpc.Status) -> NoReturn:
    """Ends a call with `status`; grpc.aio has no `abort_with_status`. Raises `grpc.aio.AbortError`."""
    await context.abort(status.code, status.details, tuple(status.trailing_metadata or ()))


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _duration(seconds: float) -> duration_pb2.Duration:
    milliseconds = max(0, ceil(seconds * 1000))
    return duration_pb2.Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
