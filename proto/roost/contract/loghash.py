"""The hash of a session's log: one link per committed step, independent of block size."""

import hashlib
import sys
from array import array
from collections.abc import Iterable

HASH_BYTES = 16
EMPTY = b""
"""Hash of an empty log."""


def pack_ids(ids: Iterable[int]) -> bytes:
    """Token ids as little-endian uint32."""
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes) -> "array[int]":
    """Token ids from little-endian uint32. Raises ValueError when the length is not a multiple of 4."""
    ids = array("I")
    ids.frombytes(data)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


def extend(log_hash: bytes, packed_step: bytes) -> bytes:
    """Hash of the log after a step whose prompt and output ids, in this order, are `packed_step`."""
    return hashlib.blake2b(packed_step, digest_size=HASH_BYTES, key=log_hash, person=b"roost.log").digest()
