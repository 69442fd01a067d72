"""Wraps every call of the session service: traces and counts it, and ends it with a rich status for any error."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import abort
from roost_gateway.errors import as_refused, internal
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
SERVICE = "/roost.v1.SessionService/"


@dataclass(frozen=True, slots=True)
class Malformed:
    """Takes the place of a request that could not be parsed."""

    error: Refused


def tolerant(deserialize: Callable[[bytes], Any], limit: int) -> Callable[[bytes], Any]:
    """Wraps `deserialize` to return `Malformed` where grpc.aio would end the call with UNKNOWN or without a reason."""

    def read(data: bytes) -> Any:
        if len(data) > limit:
            return Malformed(_too_large(len(data), limit))
        try:
            return deserialize(data)
        except DecodeError:
            return Malformed(_unreadable())

    return read


def _too_large(size: int, limit: int) -> Refused:
    why = f"{size} bytes are more than the {limit} that this gateway accepts; send less in one step"
    return Refused(Reason.MESSAGE_TOO_LARGE, why, violations=[("request", why)])


def _unreadable() -> Refused:
    why = "is not a message of this method, or a text in it is not UTF-8"
    return Refused(Reason.INVALID_REQUEST, f"the request {why}", violations=[("request", why)])


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Parses requests leniently, traces and counts calls, and turns every error into a rich status."""

    def __init__(self, telemetry: Telemetry, max_message_bytes: int) -> None:
        self._telemetry = telemetry
        self._limit = max_message_bytes

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(SERVICE):
            return handler
        method = handler_call_details.method.removeprefix(SERVICE)
        read = tolerant(handler.request_deserializer or (lambda data: data), self._limit)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guarded(method, handler.unary_stream), read, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(method, handler.unary_unary), read, handler.response_serializer
        )

    def _guarded(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            with self._telemetry.call(method, context.invocation_metadata() or ()) as outcome:
                try:
                    if isinstance(request, Malformed):
                        raise request.error
                    return await behaviour(request, context)
                except (asyncio.CancelledError, grpc.aio.AbortError):
                    outcome.failed(Reason.CANCELLED)
                    raise
                except Exception as error:
                    refused = as_refused(error)
                    if refused is None:
                        log.exception("%s failed", method)
                        refused = internal()
                    outcome.failed(refused.reason)
                    await abort(context, refused)

        return call
