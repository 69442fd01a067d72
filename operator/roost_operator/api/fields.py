"""What fields of the spec are made of: patterns of texts, and the base of its parts."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

from roost.contract import nonce_lines

POOL_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
LONGEST_NAME = 47
"""KubeRay's limit for a RayService, which has its pool's name."""
LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
MODEL_NAME = r"^[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?$"
SOURCE = r"^(hf|file|pypi|dummy)://.+$"
TENANT = r"^[^:]+$"
PATTERNS = {
    POOL_NAME: "begin with a lower-case letter, and use lower-case letters, digits and '-'",
    LABEL: "use lower-case letters, digits and '-', at most 63",
    MODEL_NAME: "use letters, digits, '-', '.' and '_', at most 63",
    TENANT: "use what the gateways' key file has as the key's tenant, a text without a colon",
    SOURCE: "use hf://org/name, file:///path, pypi://distribution/path/in/wheel or dummy://config",
    nonce_lines.PATTERN: nonce_lines.HINT,
}
"""Patterns of texts, with what to write instead of one that does not match."""

PoolName = Annotated[str, StringConstraints(pattern=POOL_NAME, max_length=LONGEST_NAME)]
Label = Annotated[str, StringConstraints(pattern=LABEL)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
TenantName = Annotated[str, StringConstraints(pattern=TENANT, max_length=253)]
Source = Annotated[str, StringConstraints(pattern=SOURCE, max_length=2048)]
NonceLineText = Annotated[str, StringConstraints(pattern=nonce_lines.PATTERN, max_length=nonce_lines.MAX_CHARS)]


_Value = TypeVar("_Value", int, str)


def one_of(allowed: Sequence[_Value]) -> Callable[[_Value], _Value]:
    """A validator for values that the worker's configuration allows."""

    def check(value: _Value) -> _Value:
        if value not in allowed:
            *others, last = (repr(choice) for choice in allowed)
            raise ValueError(f"{value!r} is not allowed; use {', '.join(others)} or {last}")
        return value

    return check


class Fields(BaseModel):
    """A part of the spec: frozen, in camelCase, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_default=True)
