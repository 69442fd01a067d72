"""The error that ends a call with a status: raised by gateway, worker and fake, reported by the transport that serves
the call. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from roost.contract.reasons import Reason


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
    """The refusal of a request, which names each invalid field."""
    violations = tuple(violations)
    message = "; ".join(f"{field}: {why}" for field, why in violations)
    return Refused(reason, f"invalid request: {message}", violations=violations)


def check(violations: Iterable[tuple[str, str]], reason: Reason = Reason.INVALID_REQUEST) -> None:
    """Raises Refused with all violations, if there are any."""
    violations = tuple(violations)
    if violations:
        raise invalid(violations, reason)
