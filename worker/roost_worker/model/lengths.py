"""Lengths that tensors are padded to. Pure.

oneDNN compiles a kernel for every shape it meets, at the price of a whole layer and more: a length that grew by one
with every step would pay it every step.
"""

_PER_DOUBLING_LOG2 = 3


def padded_length(tokens: int, block_tokens: int) -> int:
    """`tokens` rounded up to one of few lengths: to whole blocks, and by an eighth at most where blocks are small."""
    step = max(block_tokens, 1 << max(0, (tokens - 1).bit_length() - _PER_DOUBLING_LOG2 - 1))
    return -(-tokens // step) * step
