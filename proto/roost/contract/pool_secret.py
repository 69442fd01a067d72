"""The secret of a pool, which its gateways and workers share, derived from one key of the installation.

Gateways serve pools that did not exist when they started, so that nothing need be handed to them but the key.
"""

import hashlib
import hmac

PURPOSE = b"roost.pool-secret\0"


def pool_secret(key: str, pool: str) -> str:
    """HMAC-SHA256 of `pool` (`namespace/name`) under `key`, in hexadecimal. Raises ValueError when `key` is empty."""
    if not key:
        raise ValueError("the pool key is empty; give it at least 32 random characters")
    return hmac.new(key.encode(), PURPOSE + pool.encode(), hashlib.sha256).hexdigest()
