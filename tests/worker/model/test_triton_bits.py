"""With strict determinism and Triton's kernels no bit depends on how a computation was cut or batched."""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from interpreted_kernels import DEVICE, products_by_rows
from roost_worker.kernels.int8_weight import Int8Weight
from roost_worker.model import attention_triton
from roost_worker.model.linear import TorchLinear
from roost_worker.model.linear_triton import OUTPUT_TILE, ROW_TILE, TritonLinear
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config

OUTPUT = 3
DTYPE = "float32" if DEVICE.type == "cpu" else "bfloat16"
"""Interpreted, bfloat16 hides in its few digits what differs."""


@pytest.fixture(scope="module", name="runner", params=[("none", "auto"), ("int8", "int8")], ids=["plain", "int8"])
def _runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchRunner]:
    """Decode rows of more than 8 tokens would be computed in segments, if it were not strict."""
    config = worker_config(DTYPE, context_tokens=128, max_running=4)
    model = replace(config.model, determinism="strict", quantization=request.param[0])
    folder = dummy_dir("qwen3-tiny", tmp_path_factory.mktemp("model"), DTYPE)
    kv, engine = replace(config.kv, dtype=request.param[1]), replace(config.engine, kernels="triton")
    with products_by_rows(), patch.object(attention_triton, "SEGMENT_TOKENS", 8):
        yield build_runner(replace(config, model=model, kv=kv, engine=engine), folder)


def normal(*sizes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=random).to(DEVICE) for size in sizes]


def generate(runner: TorchRunner, ids: list[int], chunk: int = 64) -> Row:
    driver = Driver(runner)
    row = driver.open(ids)
    driver.generate([row], OUTPUT, chunk=chunk)
    return row


def assert_same_bits(row: Row, expected: Row) -> None:
    assert row.output == expected.output
    np.testing.assert_array_equal(row.logprobs, expected.logprobs)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunk_size_changes_no_bit(runner: TorchRunner, chunk: int) -> None:
    ids = prompts(1, 10)[0]
    assert_same_bits(generate(runner, ids, chunk), generate(runner, ids))


def test_other_rows_change_no_bit(runner: TorchRunner) -> None:
    many = prompts(3, 6)
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in many]
    driver.generate(rows, OUTPUT, chunk=5)
    for row, ids in zip(rows, many, strict=True):
        assert_same_bits(row, generate(runner, ids))


def test_a_rebuilt_sequence_goes_on_with_the_same_bits(runner: TorchRunner) -> None:
    ids = prompts(1, 10)[0]
    whole = generate(runner, ids)
    driver = Driver(runner)
    rebuilt = driver.open(ids, output=whole.output[:2])
    driver.generate([rebuilt], OUTPUT - 2, chunk=20)
    assert rebuilt.output == whole.output[2:]
    np.testing.assert_array_equal(rebuilt.logprobs, whole.logprobs[2:])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [1, ROW_TILE + 1])
def test_products_are_torchs(rows: int, gated: bool) -> None:
    """At edges of tiles, with a bias and a residual."""
    outputs = 2 * OUTPUT_TILE + 6
    weight, bias, x, residual = normal((outputs, 70), (outputs,), (rows, 70), (rows, outputs // (1 + gated)))
    product, expected = (kind(weight, bias, None, gated)(x, residual) for kind in (TritonLinear, TorchLinear))
    torch.testing.assert_close(product, expected, atol=1e-4, rtol=1e-5)


def test_int8_weights_are_multiplied_as_they_were_rounded() -> None:
    weight, bias, x = normal((OUTPUT_TILE + 6, 70), (OUTPUT_TILE + 6,), (3, 70))
    rounded = Int8Weight.of(weight)
    linear = TritonLinear(rounded, bias, None, gated=False)
    assert linear._weight.dtype == torch.int8
    expected = TorchLinear(rounded.dense(), bias, None, gated=False)(x)
    torch.testing.assert_close(linear(x), expected, atol=1e-4, rtol=1e-5)


def test_a_product_does_not_depend_on_its_neighbours() -> None:
    weight, x = normal((40, 200), (ROW_TILE + 9, 200))
    linear = TritonLinear(weight, None, None, gated=False)
    with products_by_rows():
        whole = linear(x)
        for rows in (slice(0, 1), slice(5, 30), slice(ROW_TILE - 1, ROW_TILE + 9)):
            assert torch.equal(linear(x[rows].contiguous()), whole[rows])
