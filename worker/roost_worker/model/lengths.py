"""Lengths that tensors are padded to. Pure.

oneDNN compiles a kernel for every new shape, which takes longer than a whole layer: with a length that grows by one
from batch to batch it would do so for every batch.
"""

_PER_DOUBLING_LOG2 = 3


def padded_length(tokens: int, block_tokens: int) -> int:
    """Round `tokens` up to one of a few lengths: to whole blocks, and by at most an eighth where blocks are small."""
    multiple = max(block_tokens, 1 << max(0, (tokens - 1).bit_length() - _PER_DOUBLING_LOG2 - 1))
    return -(-tokens // multiple) * multiple
