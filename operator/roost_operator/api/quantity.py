"""Kubernetes quantities of memory (`512Mi`, `2G`, `1048576`, or `auto`) and of CPUs (`2`, `1500m`)."""

import re
from decimal import ROUND_CEILING, Decimal

_CPUS = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")
MEMORY = r"[0-9]+(\.[0-9]+)?([kKMGTPE]|[KMGTPE]i)?"

AUTO = "auto"


def memory_bytes(text: str) -> int | None:
    """Bytes of a quantity, rounded up as Kubernetes does; None for `auto`. Raises ValueError, which names the fix, for
    anything else, including 0."""
    if text == AUTO:
        return None
    if not re.fullmatch(MEMORY, text):
        raise ValueError(f"{text!r} is not an amount of memory; write for example 512Mi, 4Gi or auto")
    # Imported here because the client takes most of a second to import, and `auto` is the common case.
    from kubernetes.utils.quantity import parse_quantity

    value = Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]  # the client has no types
    if value <= 0:
        raise ValueError(f"{text!r} must be positive; write for example 512Mi, 4Gi or auto")
    return int(value.to_integral_value(ROUND_CEILING))


def cpus(quantity: str | float) -> Decimal:
    """CPUs of a quantity. Raises ValueError, which names the fix, for anything else."""
    text = str(quantity)
    if not _CPUS.fullmatch(text):
        raise ValueError(f"{text!r} is not a number of CPUs; write for example 2 or 1500m")
    return Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)
