"""The keys under which the engine caches what tenants' sessions have. Pure."""

import hashlib
import hmac


def cache_root(pool_secret: str, tenant: str) -> bytes:
    """Return the root of a tenant's block keys, 16 bytes: tenants neither share blocks nor guess each other's keys."""
    return hmac.new(pool_secret.encode(), tenant.encode(), hashlib.sha256).digest()[:16]
