"""Identifiers of calls. Pure but for the random numbers."""

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass

_ALPHABET = string.ascii_letters + string.digits


def _long() -> str:
    return f"call_{secrets.token_hex(16)}"


def _short() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


@dataclass(frozen=True, slots=True)
class CallIds:
    """How a format's calls are identified."""

    new: Callable[[], str]
    """Draws an id."""
    written: re.Pattern[str] | None = None
    """Ids that are kept when the model writes them itself; None when its ids mean nothing."""


UNIQUE = CallIds(_long)
"""37 characters with 128 random bits, unique among all sessions and pools."""
MISTRAL = CallIds(_short, re.compile(r"[A-Za-z0-9]{9}"))
"""9 letters and digits, the only ids that Mistral's models were trained on; unique in a session."""
