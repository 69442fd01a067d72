"""The error that ends a call with a status: raised by gateway, worker and fake, reported by the transport that serves
the call. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from roost.contract.reasons import Reason

MAX_VIOLATIONS = 10
"""Fields that a refusal names; a request may have thousands that are alike."""


class Refused(Exception):  # noqa: N818  the contract's own word
    """A call ends with the status of `reason` (`roost.contract.reasons.STATUSES`).

    `message` is for people and names the fix. After `retry_seconds` a retry may succeed; None when it cannot.
    `violations` are pairs of a field and what is wrong with it. `metadata` is for programs.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_seconds: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})


def invalid(violations: Iterable[tuple[str, str]], reason: Reason = Reason.INVALID_REQUEST) -> Refused:
    """The refusal of a request. It names the first `MAX_VIOLATIONS` invalid fields, and counts the others."""
    violations = tuple(violations)
    named, more = violations[:MAX_VIOLATIONS], len(violations) - MAX_VIOLATIONS
    message = "; ".join(f"{field}: {why}" for field, why in named)
    rest = f"; and {more} more" if more > 0 else ""
    return Refused(reason, f"invalid request: {message}{rest}", violations=named)


def check(violations: Iterable[tuple[str, str]], reason: Reason = Reason.INVALID_REQUEST) -> None:
    """Raises Refused if there are any violations, as `invalid` returns it."""
    violations = tuple(violations)
    if violations:
        raise invalid(violations, reason)
