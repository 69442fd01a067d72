"""Refusals as HTTP responses: status, headers, and the body of each API. Pure."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from roost.contract.reasons import STATUSES, Reason
from roost.contract.refused import Refused

OVERLOADED = 529
"""Anthropic's status for what others call 503."""

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_TOO_LONG = "context_length_exceeded"
_CODES = {Reason.POOL_NOT_FOUND: "model_not_found"}
"""Codes that clients compare with; the others are the reason in lower case."""


class Api(StrEnum):
    """Whose errors an endpoint speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as an API reports it: in a response of its own, or in the middle of a stream by its body alone."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def failure(api: Api, refused: Refused, request_id: str) -> Failure:
    """A refusal in the form of `api`, with its reason as a header; Retry-After, in whole seconds, when it may be tried
    again."""
    status = STATUSES[refused.reason].http
    headers = {"x-roost-error": refused.reason.value.lower()}  # Anthropic's form has no code
    if refused.retry_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(refused.retry_seconds)))
    if refused.reason is Reason.MESSAGE_TOO_LARGE:
        headers["connection"] = "close"  # the rest of the body is not read
    if api is Api.ANTHROPIC:
        status = OVERLOADED if status == 503 else status
        return Failure(status, _anthropic_body(status, _message(refused, "prompt is too long"), request_id), headers)
    code = _TOO_LONG if _is_history_too_long(refused) else _CODES.get(refused.reason, refused.reason.value.lower())
    param = _api_field(refused.violations[0][0]) if refused.violations else None
    message = _message(refused, "This model's maximum context length is exceeded")
    return Failure(status, _openai_body(status, code, message, param), headers)


def http_failure(api: Api, status: int, message: str, request_id: str) -> Failure:
    """An error of HTTP itself, as an unknown path."""
    if api is Api.ANTHROPIC:
        return Failure(status, _anthropic_body(status, message, request_id))
    return Failure(status, _openai_body(status, "not_found" if status == 404 else "invalid_request", message, None))


def _message(refused: Refused, too_long: str) -> str:
    """What the refusal says, with fields as the API calls them. Clients compact their history at the sentence
    `too_long`, whatever follows it, again and again while that does not help."""
    message = refused.message
    for name, _ in refused.violations:
        message = message.replace(name, _api_field(name))
    return f"{too_long}: {message}" if _is_history_too_long(refused) else message


def _is_history_too_long(refused: Refused) -> bool:
    """Whether a shorter history would fit. A refusal of system text and tools says nothing of a log."""
    is_session_too_long = "prompt_tokens" in refused.metadata and "log_tokens" not in refused.metadata
    return refused.reason is Reason.STEP_TOO_LONG and not is_session_too_long


def _api_field(name: str) -> str:
    """Sampling parameters are fields of the body itself in every API."""
    return name.removeprefix("sampling.")


def _openai_body(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
