"""Names of pools and sessions. A session's name contains its pool."""

import re
import secrets
import time

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_POOL = re.compile(rf"({_LABEL})/({_LABEL})")
_SESSION = re.compile(rf"({_LABEL}/{_LABEL})/([0-9a-hjkmnp-tv-z]{{26}})")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32


def is_pool(text: str) -> bool:
    """Whether `text` is a pool's name: `namespace/name`, two DNS labels."""
    return _POOL.fullmatch(text) is not None


def new_session_id(pool: str) -> str:
    """Returns a new session's name in `pool`. The names of a pool sort by time of creation (ULID)."""
    value = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return f"{pool}/" + "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


def pool_of(session_id: str) -> str | None:
    """Returns the pool of a session's name, or None when the name is malformed."""
    match = _SESSION.fullmatch(session_id)
    return match.group(1) if match else None
