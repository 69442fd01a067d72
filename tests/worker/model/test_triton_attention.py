"""Attention by Triton's kernels, interpreted, against the plain backend in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from attention_driver import CPU, AttentionDriver, Layer, layer
from interpreted_kernels import interpreted
from reference_attention import ReferenceAttention
from roost_worker.model import attention_triton
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_triton import TritonAttention
from roost_worker.model.kv_cache import KvShape

pytestmark = interpreted

LENGTHS = (3, 5, 16, 17, 33)
"""At, before and after the edges of blocks, of tiles of keys and of segments."""
BEFORE, NOW = (2, 0, 15, 10, 32), (1, 5, 1, 7, 1)
"""Decode rows, chunks from the start and behind a context."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short contexts have several tiles of keys, of several blocks each, and several segments."""
    for name in ("MOST_KEYS", "PREFILL_ROWS", "SEGMENT_TOKENS"):
        monkeypatch.setattr(attention_triton, name, 16)


def attended(
    of: Layer, cuts: Sequence[Sequence[int]], *, plain: bool, block_tokens: int = 4, is_int8: bool = False
) -> list[Tensor]:
    """Each sequence's outputs of the last batch of `cuts`."""

    def backend(shape: KvShape, dtype: torch.dtype) -> AttentionBackend:
        if plain:
            return ReferenceAttention(dtype, CPU)
        return TritonAttention(shape, of.heads.share.heads, dtype, CPU, 256)

    driver = AttentionDriver(of, backend, block_tokens, is_int8=is_int8)
    return [driver.attend(*tokens) for tokens in cuts][-1]


def assert_close(of: Layer, cuts: Sequence[Sequence[int]], block_tokens: int = 4, *, is_int8: bool = False) -> None:
    exact = attended(of.to(torch.float64), cuts, plain=True, block_tokens=block_tokens, is_int8=is_int8)
    outputs = attended(of, cuts, plain=False, block_tokens=block_tokens, is_int8=is_int8)
    for out, expected in zip(outputs, exact, strict=True):
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (3, 34), (8, 24), (20, 10)])
def test_a_mixed_batch_is_the_plain_backends(group: int, head_dim: int) -> None:
    assert_close(layer(LENGTHS, group=group, head_dim=head_dim), [BEFORE, NOW])


@pytest.mark.parametrize(("group", "head_dim"), [(3, 34), (8, 24)])
def test_int8_is_read_as_it_was_rounded(group: int, head_dim: int) -> None:
    """Keys that are not rotated are the same numbers for all backends, and are rounded to the same steps."""
    assert_close(layer(LENGTHS, group=group, head_dim=head_dim, rotates=False), [BEFORE, NOW], is_int8=True)


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("side", [1, 2], ids=["key", "value"])
def test_int8_does_not_hide_infinities_and_nans(side: int, number: float) -> None:
    of = layer((20,), group=1, kv_heads=1, head_dim=16, rotates=False)
    of.sequences[0][5, 16 * side + 3] = number
    out = attended(of, [(20,)], plain=False, is_int8=True)[0]
    assert out[5:].isnan().any(dim=1).all()


@pytest.mark.parametrize("block_tokens", [8, 32])
def test_any_block_size(block_tokens: int) -> None:
    assert_close(layer((38, 18), head_dim=16), [(25, 17), (13, 1)], block_tokens)


@pytest.mark.parametrize(
    "kwargs", [{"rotates": False}, {"norms": True}, {"scales": True}, {"norms": True, "scales": True, "head_dim": 10}]
)
def test_any_kind_of_heads(kwargs: dict[str, bool]) -> None:
    assert_close(layer((10, 8), **kwargs), [(5, 7), (5, 1)])


def test_bfloat16_is_stored_as_it_was_projected() -> None:
    """Triton's interpreter does not round to bfloat16, but cuts off, so that outputs are compared coarsely."""
    of = layer((18, 10), torch.bfloat16)
    exact = attended(of.to(torch.float64), [(17, 8), (1, 2)], plain=True)
    for out, expected in zip(attended(of, [(17, 8), (1, 2)], plain=False), exact, strict=True):
        torch.testing.assert_close(out.double(), expected, atol=5e-2, rtol=5e-2)


def test_decode_and_prefill_of_any_chunks_agree() -> None:
    of = layer((20,), head_dim=16)

    def outputs(tokens: int) -> Tensor:
        return AttentionDriver(of, lambda shape, dtype: TritonAttention(shape, 6, dtype, CPU, 256), 4).attend_in_chunks(
            tokens
        )

    for tokens in (1, 9):
        torch.testing.assert_close(outputs(tokens), outputs(20), atol=1e-6, rtol=1e-6)


def test_segments_of_a_long_context_are_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_triton, "SEGMENT_TOKENS", 4)
    monkeypatch.setattr(attention_triton, "MOST_SEGMENTS", 3)
    assert_close(layer((33, 13, 5), head_dim=16), [(32, 12, 4), (1, 1, 1)])


@pytest.mark.parametrize(
    ("dims", "dtype", "keys"), [(128, torch.bfloat16, 64), (256, torch.bfloat16, 32), (128, torch.float32, 32)]
)
def test_tiles_of_keys_fit_shared_memory(
    monkeypatch: pytest.MonkeyPatch, dims: int, dtype: torch.dtype, keys: int
) -> None:
    monkeypatch.undo()
    assert attention_triton.keys_of_tile(dims, dtype) == keys
