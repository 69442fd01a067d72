"""Products with packed weights: right, and the same bits for a row whatever it is computed with."""

import platform
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compiled_kernels import kernels, needs_compiler
from roost_worker.kernels.int8_weight import Int8Weight
from roost_worker.kernels.library import DTYPES, Kernels

pytestmark = needs_compiler

ARCHITECTURES = ("native", "x86-64-v3") if platform.machine() == "x86_64" else ("native",)
SHAPES = ((1, 1), (5, 3), (33, 17), (64, 576), (70, 2050), (40, 4101))
"""Outputs and inputs: below, at and beyond the borders of panels, pairs and blocks."""
EPS = 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def compiled_for(request: pytest.FixtureRequest) -> Callable[[int], Kernels]:
    return lambda threads: kernels(threads, request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_a_product_is_that_of_float64(
    compiled_for: Callable[[int], Kernels], dtype: torch.dtype, shape: tuple[int, int], gated: bool
) -> None:
    outputs, inputs = shape
    weight, bias = torch.randn(2 * outputs, inputs).to(dtype), torch.randn(2 * outputs).to(dtype)
    norm, x = torch.randn(inputs).to(dtype), torch.randn(14, inputs).to(dtype)
    packed = compiled_for(2).pack(weight, bias, norm=norm, eps=EPS, gated=gated)

    normed = functional.rms_norm(x.double(), (inputs,), norm.double(), EPS).to(dtype)
    expected = normed.double() @ weight.double().T + bias.double()
    if gated:
        gates, values = expected.chunk(2, dim=1)
        expected = functional.silu(gates) * values
    residual = torch.randn(expected.shape).to(dtype)
    for result, exact in ((packed(x), expected), (packed(x, residual), residual.double() + expected)):
        assert result.dtype == dtype
        assert _distance(result, exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_norm_and_bias(compiled_for: Callable[[int], Kernels], dtype: torch.dtype) -> None:
    weight, x = torch.randn(96, 77).to(dtype), torch.randn(3, 77).to(dtype)
    assert _distance(compiled_for(1).pack(weight)(x), x.double() @ weight.double().T) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_weights_are_multiplied_as_what_they_stand_for(
    compiled_for: Callable[[int], Kernels], dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight, bias, x = (
        torch.randn(shape).to(dtype),
        torch.randn(shape[0]).to(dtype),
        torch.randn(200, shape[1]).to(dtype),
    )
    int8 = Int8Weight.of(weight)
    exact = x.double() @ (int8.values.double() * int8.scales.double()[:, None]).T + bias.double()
    packed = compiled_for(2).pack(int8, bias)
    for rows in (1, 14, 200):
        assert _distance(packed(x[:rows]), exact[:rows]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_weights_are_within_half_a_step(dtype: torch.dtype) -> None:
    weight = torch.randn(30, 50).to(dtype)
    weight[3] = 0
    int8 = Int8Weight.of(weight)
    assert (int8.values.float() * int8.scales[:, None] - weight.float()).abs().le(int8.scales[:, None] * 0.501).all()
    assert int8.values.abs().amax(dim=1).eq(127).logical_or(int8.scales.eq(0)).all()
    assert int8.dense().dtype == dtype
    assert int8.dense()[3].eq(0).all()


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(33, 17), (70, 2101)], ids=str)
def test_a_row_has_the_same_bits_in_any_batch_on_any_threads(
    compiled_for: Callable[[int], Kernels], dtype: torch.dtype, shape: tuple[int, int], quantized: bool
) -> None:
    plain, x = torch.randn(shape).to(dtype), torch.randn(200, shape[1]).to(dtype)
    weight = Int8Weight.of(plain) if quantized else plain
    norm = torch.randn(shape[1]).to(dtype)
    products = [compiled_for(threads).pack(weight, norm=norm, eps=EPS) for threads in (1, 2, 3)]
    alone = torch.cat([products[0](row[None]) for row in x])
    for rows in (*range(1, 15), 25, 96, 97, 193, 200):
        for product in products:
            assert torch.equal(product(x[:rows]), alone[:rows])
            assert torch.equal(product(x[-rows:]), alone[-rows:])


def test_no_rows(compiled_for: Callable[[int], Kernels]) -> None:
    assert compiled_for(2).pack(torch.randn(40, 8))(torch.randn(0, 8)).shape == (0, 40)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_far_from_zero_open_or_close(compiled_for: Callable[[int], Kernels], dtype: torch.dtype) -> None:
    weight = torch.tensor([[1.0], [1.0]]).to(dtype)
    gated = compiled_for(1).pack(weight, gated=True)
    x = torch.tensor([[-1e6], [-256.0], [0.0], [256.0], [float("nan")]]).to(dtype)
    results = gated(x).double().flatten()
    assert results[:3].abs().max() < 1e-20
    assert results[3] == x[3].double() ** 2
    assert results[4].isnan()


def _distance(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max() / exact.abs().max())
