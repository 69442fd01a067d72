"""One call over HTTP: who sends it, its body, and how its errors are reported; traced and counted as gRPC's are."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost_gateway.core.caller import Caller
from roost_gateway.core.conversations import Conversations
from roost_gateway.core.life import GatewayRuntime
from roost_gateway.errors import as_refused, internal
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.http.errors import Api, Failure, failure
from roost_gateway.telemetry import Outcome, Telemetry

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0
"""Longest time in which a request's body comes."""


class ClientLeftError(Exception):
    """The client has closed the connection before its response was complete."""


@dataclass(frozen=True, slots=True)
class HttpFront:
    """What every endpoint needs."""

    life: GatewayRuntime
    authenticator: Authenticator
    telemetry: Telemetry
    max_body_bytes: int
    session_headers: tuple[str, ...] = ()
    """Further headers that name a client's conversation."""


NOBODY = Caller("", frozenset())
"""May use no pool."""


@dataclass(slots=True)
class HttpCall:
    """A call and its response."""

    front: HttpFront
    api: Api
    scope: Scope
    headers: Headers
    receive: Receive
    send: Send
    outcome: Outcome
    request_id: str
    response_headers: dict[str, str] = field(default_factory=dict)
    """Headers of the response, whatever becomes of the call."""
    caller: Caller = NOBODY
    body: bytes = b""
    is_committed: bool = False
    """Whether the step has been committed: from then on a client may leave."""

    @property
    def conversations(self) -> Conversations:
        """Raises StoreAwayError until the store has been reached."""
        return self.front.life.conversations

    async def respond(self, body: object, status: int = 200) -> None:
        """Sends a whole response in JSON."""
        response = JSONResponse(body, status, self.response_headers)
        await response(self.scope, self.receive, self.send)

    def failed(self, error: BaseException) -> Failure:
        """Counts and logs an error, and returns it as the API reports it."""
        refused = as_refused(error)
        if isinstance(error, asyncio.CancelledError):
            refused = Refused(Reason.WORKER_DRAINING, "this gateway stops; send the request again", retry_seconds=1.0)
        if refused is None:
            log.error("request %s failed", self.request_id, exc_info=error)
            refused = internal()
        self.outcome.failed(refused.reason)
        return failure(self.api, refused, self.request_id)


Handler = Callable[[HttpCall], Awaitable[None]]
"""Answers a call, by `respond` or a stream. It raises what becomes an error's response, unless its own has begun."""


class Endpoint:
    """The ASGI application of an endpoint: authenticates, reads the body, calls the handler, reports its errors."""

    def __init__(self, front: HttpFront, name: str, handler: Handler, api: Api = Api.OPENAI) -> None:
        """`name` stands for the endpoint in traces and metrics."""
        self._front, self._name, self._handler, self._api = front, name, handler, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, request_id = Headers(scope=scope), new_request_id()
        with self._front.telemetry.call(self._name, headers.items(), span=f"{scope['method']} {self._name}") as outcome:
            call = HttpCall(self._front, self._api, scope, headers, receive, send, outcome, request_id)
            call.response_headers = request_id_headers(self._api, request_id)
            try:
                call.caller = self._front.authenticator.identify(headers.items())
                call.body = await read_body(headers, receive, self._front.max_body_bytes)
                await self._handler(call)
            except ClientLeftError:
                outcome.failed(Reason.CANCELLED)
            except (Exception, asyncio.CancelledError) as error:  # only the server's end cancels a request
                reported = call.failed(error)
                call.response_headers |= reported.headers
                await call.respond(reported.body, reported.status)


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def request_id_headers(api: Api, request_id: str) -> dict[str, str]:
    """The request's id under the names that the API's clients read."""
    headers = {"x-request-id": request_id}
    return {**headers, "request-id": request_id} if api is Api.ANTHROPIC else headers


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """Returns the request's body. Reads up to twice the limit, so that the client can read why it is refused.

    Raises Refused: MESSAGE_TOO_LARGE, INVALID_REQUEST when it is compressed or does not come; and ClientLeftError.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise invalid([("content-encoding", "is not supported; send the body uncompressed")])
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                size += len(message["body"])
                if size <= limit:
                    chunks.append(message["body"])
                if not message["more_body"] or size > 2 * limit:
                    break
    except TimeoutError:
        raise invalid([("body", f"did not come within {BODY_SECONDS:g} s")]) from None
    if size > limit:
        why = f"{size} bytes or more are too many for this gateway, which accepts {limit}; send less in one step"
        raise Refused(Reason.MESSAGE_TOO_LARGE, why, violations=[("body", why)])
    return b"".join(chunks)
