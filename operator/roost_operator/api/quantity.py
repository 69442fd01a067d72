"""Kubernetes quantities of memory: `512Mi`, `2G`, `1048576`, or `auto`."""

from decimal import Decimal

AUTO = "auto"


def memory_bytes(text: str) -> int | None:
    """Bytes that a quantity stands for; None for `auto`. Raises ValueError, naming the fix, for anything else."""
    if text == AUTO:
        return None
    # The client takes most of a second to import and `auto` is the common case.
    from kubernetes.utils.quantity import parse_quantity

    try:
        value = Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]  # the client has no types
    except ValueError:
        raise ValueError(f"{text!r} is no amount of memory; write for example 512Mi, 4Gi or auto") from None
    if value != value.to_integral_value() or value < 1:
        raise ValueError(f"{text!r} is not a positive whole number of bytes; write for example 512Mi, 4Gi or auto")
    return int(value)
