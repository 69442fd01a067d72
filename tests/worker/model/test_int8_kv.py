"""Rounding of keys and values to int8, and where it leaves them in a block."""

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from attention_driver import CPU
from roost_worker.kernels.int8_weight import LARGEST
from roost_worker.model.int8_kv import restored, rounded
from roost_worker.model.kv_cache import KvShape, PagedKvCache, bytes_per_block

ROWS = hypothesis_numpy.arrays("float32", (3, 2, 8), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(ROWS)
@example(np.full((3, 2, 8), 1.7e-37, np.float32))
def test_each_number_is_off_by_half_a_step_at_most(numbers: object) -> None:
    rows = torch.as_tensor(numbers)
    kept, scales = rounded(rows)
    assert (kept.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, rows.shape[:-1])
    error = (restored(kept, scales, torch.float64) - rows.double()).abs()
    has_steps = scales >= torch.finfo(torch.float32).tiny  # a row whose scale is smaller is kept as zeros
    assert (error <= scales.double()[..., None] * (0.5 + 1e-4))[has_steps].all()
    assert (kept.abs().amax(dim=-1) == torch.where(has_steps, LARGEST, 0)).all()


def test_a_row_is_rounded_without_regard_to_others() -> None:
    rows = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(1))
    kept, scales = rounded(rows)
    for index, row in enumerate(rows):
        alone, its_scales = rounded(row)
        assert torch.equal(alone, kept[index])
        assert torch.equal(its_scales, scales[index])


def test_zeros_stay_zero_and_rows_with_infinities_or_nans_are_read_as_nan() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, float("nan")], [float("-inf"), 1.0], [2.0, -4.0]])
    out = restored(*rounded(rows), torch.bfloat16)
    assert out[0].tolist() == [0, 0]
    assert out[1:3].isnan().all()
    assert out[3].tolist() == [2.015625, -4]


def test_numbers_and_scales_fill_a_block() -> None:
    shape = KvShape(4, 3, 16, 2, 8, is_int8=True)
    cache = PagedKvCache(shape, torch.float32, CPU)
    assert cache.tensor.shape == (4, 3, 2, 16 * 2 * (8 + 4))
    assert cache.tensor[1].is_contiguous()
    assert bytes_per_block(shape, torch.float32) == cache.tensor[1].numel()
    for layer in cache.layers:
        for side in (layer.keys, layer.values):
            assert side.scales is not None
            side.numbers.fill_(1)
            side.scales.view(torch.int32).fill_(0x01010101)
    assert cache.tensor.eq(1).all(), "the views cover every byte, and none of them twice"


def test_layers_round_into_the_one_tensor() -> None:
    cache = PagedKvCache(KvShape(4, 3, 16, 2, 8, is_int8=True), torch.float32, CPU)
    blocks, offsets = torch.tensor([2, 3]), torch.tensor([5, 0])
    cache.layers[1].write(blocks, offsets, torch.full((2, 2, 8), 127.0), torch.full((2, 2, 8), -254.0))
    values = cache.layers[1].values.gather(blocks, torch.float32)
    assert values[0, 5].eq(-254).all()
    assert values[1, 0].eq(-254).all()
    assert values.count_nonzero() == 2 * 16
    assert cache.layers[1].keys.gather(blocks, torch.float32)[0, 5].eq(127).all()
    assert not cache.tensor[:, 0].any()
