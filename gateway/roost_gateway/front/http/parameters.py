"""Which parameters an endpoint has, and how its requests are read: one table per endpoint, pydantic for the values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from roost.contract.refused import invalid

MAX_MESSAGES = 10_000
"""Most messages of a history: reading as many takes the event loop some hundredths of a second."""


class Use(StrEnum):
    """What becomes of a parameter."""

    SUPPORTED = "supported"
    IGNORED = "ignored"
    """Accepted, and named in `x-roost-ignored`, because the reply is right without it."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of an endpoint's table."""

    name: str
    use: Use
    note: str = ""
    """For people: what it does here, why it is harmless, or what to send instead."""
    harmless: tuple[Any, ...] = ()
    """Values of a refused parameter that ask for nothing, beside null."""


def supported(name: str, note: str = "") -> Parameter:
    """A parameter that does what its API says, as far as `note` does not say otherwise."""
    return Parameter(name, Use.SUPPORTED, note)


def ignored(name: str, note: str = "") -> Parameter:
    """A parameter without effect; `note` says why that is harmless."""
    return Parameter(name, Use.IGNORED, note)


def refused(name: str, note: str, harmless: tuple[Any, ...] = ()) -> Parameter:
    """A parameter that is refused unless it is null or `harmless`; `note` says what to do instead."""
    return Parameter(name, Use.REFUSED, note, harmless)


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """All parameters of an endpoint that are known. Others are ignored, since clients send many of their own."""

    path: str
    rows: tuple[Parameter, ...]

    def named(self, use: Use) -> dict[str, Parameter]:
        """The rows of one use, by name."""
        return {row.name: row for row in self.rows if row.use is use}

    def without_effect(self, others: Mapping[str, Any]) -> list[str]:
        """Checks what a request has beside the supported parameters, and returns the names that have no effect.

        Raises Refused: INVALID_REQUEST that names each refused parameter and what to do.
        """
        rows = self.named(Use.REFUSED)
        violations = [
            (name, f"is not supported; {rows[name].note}")
            for name, value in others.items()
            if name in rows and value is not None and value not in rows[name].harmless
        ]
        if violations:
            raise invalid(violations)
        return [name for name, value in others.items() if name not in rows and value is not None]


class Body(BaseModel):
    """A request's body. Its fields are the supported parameters; what else comes is in `model_extra`."""

    model_config = ConfigDict(strict=True, extra="allow")


class Part(BaseModel):
    """A part of a body. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


BodyType = TypeVar("BodyType", bound=Body)


def read(model: type[BodyType], table: ParameterTable, body: bytes) -> tuple[BodyType, dict[str, str]]:
    """Returns a request's parameters, and the response's headers that name those without effect.

    Raises Refused: INVALID_REQUEST that names the fields that are malformed, or refused.
    """
    try:
        request = model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(_violations(error)) from None
    names = ",".join(name for name in table.without_effect(request.model_extra or {}) if _is_plain(name))
    return request, {"x-roost-ignored": names[:_MAX_HEADER_CHARS]} if names else {}


def json_text(value: Any, field: str) -> str:
    """JSON text of a part of a body. Raises Refused: INVALID_REQUEST for numbers that JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise invalid([(field, f"is not JSON: {error}")]) from None


_MAX_HEADER_CHARS = 500
_MAX_REASON_CHARS = 400
"""Of what pydantic says of a field, which may quote the request."""


def _violations(error: ValidationError) -> list[tuple[str, str]]:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [(_field(detail["loc"]), detail["msg"][:_MAX_REASON_CHARS]) for detail in details]


def _field(location: tuple[int | str, ...]) -> str:
    """A place in a body as `messages[3].content`; "body" for all of it."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")[:100] or "body"


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and "," not in name
