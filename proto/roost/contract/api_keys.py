"""How a key file holds an API key. Pure."""

import hashlib


def hash_api_key(key: str) -> str:
    """SHA-256 of an API key in hexadecimal. Keys are random, so they need no salt."""
    return hashlib.sha256(key.encode()).hexdigest()
