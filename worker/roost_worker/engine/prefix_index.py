"""Finds full blocks by their content and everything before it."""

import hashlib
from array import array

from roost.contract.loghash import pack_ids

KEY_BYTES = 16


def block_key(parent: bytes, ids: "array[int]") -> bytes:
    """Return a full block's key: 16 bytes of blake2b over its ids, keyed by the key of the block before it.

    The chain's root differs by tenant, so equal content of two tenants has different keys. With 128 bits, two
    different contents collide with a probability of n^2 / 2^129 for n blocks: 1e-20 for a billion.
    """
    return hashlib.blake2b(pack_ids(ids), digest_size=KEY_BYTES, key=parent, person=b"roost.block").digest()


def extend_keys(keys: list[bytes], root: bytes, ids: "array[int]", block_tokens: int, blocks: int) -> None:
    """Extend `keys`, the keys of the first full blocks of `ids`, to `blocks` keys."""
    for index in range(len(keys), blocks):
        parent = keys[-1] if keys else root
        keys.append(block_key(parent, ids[index * block_tokens : (index + 1) * block_tokens]))


class PrefixIndex:
    """Maps keys to sealed blocks, one block per key and one key per block."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, key: bytes) -> int | None:
        """Return the block under `key`, or None."""
        return self._blocks.get(key)

    def key(self, block: int) -> bytes:
        """Return the key of `block`, which is in the index."""
        return self._keys[block]

    def match(self, keys: list[bytes]) -> "array[int]":
        """Return the blocks of the longest prefix of `keys` that is in the index."""
        blocks = array("i")
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def add(self, key: bytes, block: int) -> None:
        assert key not in self._blocks, f"block {block}'s key is listed already"
        assert block not in self._keys, f"block {block} is listed already"
        self._blocks[key] = block
        self._keys[block] = key

    def remove(self, block: int) -> bytes:
        """Remove `block`; return its key."""
        key = self._keys.pop(block)
        del self._blocks[key]
        return key

    def blocks(self) -> set[int]:
        """Return all blocks in the index."""
        return set(self._keys)

    def check_integrity(self) -> None:
        """Raise AssertionError unless both directions agree."""
        assert {block: key for key, block in self._blocks.items()} == self._keys, "keys and blocks disagree"
