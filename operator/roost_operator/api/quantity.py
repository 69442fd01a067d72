"""Kubernetes quantities of memory (`512Mi`, `2G`, `1048576`, or `auto`) and of CPUs (`2`, `1500m`)."""

import re
from decimal import ROUND_CEILING, Decimal

_CPUS = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")
_POWERS = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?)(?P<suffix>[numkKMGTPE]|[KMGTPE]i|)", re.ASCII
)
_MOST = 2**63 - 1
MEMORY = r"[0-9]+(\.[0-9]+)?([kKMGTPE]|[KMGTPE]i)?"

AUTO = "auto"


def memory_bytes(text: str) -> int | None:
    """Bytes of a quantity, rounded up as Kubernetes does; None for `auto`. Raises ValueError, which names the fix, for
    anything else, including 0."""
    if text == AUTO:
        return None
    if not re.fullmatch(MEMORY, text):
        raise ValueError(f"{text!r} is not an amount of memory; write for example 512Mi, 4Gi or auto")
    value = byte_count(text)
    if not value:
        raise ValueError(f"{text!r} must be positive; write for example 512Mi, 4Gi or auto")
    return value


def optional_memory_bytes(text: str) -> int:
    """Bytes of a quantity that may be 0, rounded up. Raises ValueError, which names the fix, for anything else."""
    if not re.fullmatch(MEMORY, text):
        raise ValueError(f"{text!r} is not an amount of memory; write for example 512Mi, 4Gi, or 0 for none")
    return 0 if text == "0" else byte_count(text)


def byte_count(text: str) -> int:
    """Bytes of a quantity, rounded up, and at most 2^63 - 1, as Kubernetes has it.

    Raises ValueError for what is none, and for one whose exponent has more than four digits.
    """
    # Not by kubernetes.utils, whose import takes longer than all else that `roost up` does before its first process.
    parts = _QUANTITY.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not a quantity")
    value = Decimal(parts["number"]) * _factor(parts["suffix"])
    return int(min(value, Decimal(_MOST)).to_integral_value(ROUND_CEILING))


def _factor(suffix: str) -> Decimal:
    base, power = Decimal(1024 if suffix.endswith("i") else 1000), _POWERS[suffix.removesuffix("i")]
    return base**power


def cpus(quantity: str | float) -> Decimal:
    """CPUs of a quantity. Raises ValueError, which names the fix, for anything else."""
    text = str(quantity)
    if not _CPUS.fullmatch(text):
        raise ValueError(f"{text!r} is not a number of CPUs; write for example 2 or 1500m")
    return Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)
