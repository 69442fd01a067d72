"""Sizes that decode batches are padded to, so that a few CUDA graphs serve all of them. Pure."""

from collections.abc import Sequence

_DOUBLED = (1, 2, 4)
_FINE, _FINE_UP_TO = 8, 64
_COARSE = 32
MOST_ROWS = 256
"""Of a step of a static shape. Its launches are a small part of a larger one's time, and its memory is not."""


def decode_sizes(most: int) -> tuple[int, ...]:
    """Return sizes in ascending order, the last of which is `most` or MOST_ROWS.

    At most 7 rows pad a batch of up to 64, 31 a larger one.
    """
    most = min(most, MOST_ROWS)
    fine, coarse = range(_FINE, _FINE_UP_TO + 1, _FINE), range(_FINE_UP_TO + _COARSE, most, _COARSE)
    return (*(size for size in (*_DOUBLED, *fine, *coarse) if size < most), most)


def padded_size(rows: int, sizes: Sequence[int]) -> int | None:
    """Return the smallest of ascending `sizes` that holds `rows`, or None."""
    return next((size for size in sizes if size >= rows), None)
