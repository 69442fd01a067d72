"""With compiled kernels a sequence's distributions are the same bits however its computation was cut or batched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiled_kernels import needs_compiler
from follower_rank import tensor_parallel
from roost_worker.model.attention_kernels import KernelAttention
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, on_cpu, prompts, worker_config

pytestmark = needs_compiler

OUTPUT = 6


FORMATS = [("float32", "none", "auto"), ("bfloat16", "none", "auto"), ("bfloat16", "int8", "int8")]
"""Formats of rows, and of weights and KV where they differ."""


@pytest.fixture(scope="module", name="runner", params=FORMATS, ids=str)
def _runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchRunner:
    dtype, quantization, kv_dtype = request.param
    config = worker_config(dtype, memory_bytes=4 << 20)
    model = replace(config.model, determinism="strict", quantization=quantization)
    with on_cpu():
        folder = dummy_dir("llama-tiny", tmp_path_factory.mktemp("model"), dtype)
        runner = build_runner(replace(config, model=model, kv=replace(config.kv, dtype=kv_dtype)), folder)
    assert isinstance(runner._backend, KernelAttention)
    return runner


def generate(runner: TorchRunner, ids: list[int], chunk: int = 512) -> Row:
    driver = Driver(runner)
    row = driver.open(ids)
    driver.generate([row], OUTPUT, chunk=chunk)
    return row


def assert_same_bits(rows: list[Row], expected: list[Row]) -> None:
    for row, other in zip(rows, expected, strict=True):
        assert row.output == other.output
        np.testing.assert_array_equal(row.logprobs, other.logprobs)


@pytest.mark.parametrize("chunk", [1, 2, 7, 33, 256])
def test_chunk_size_changes_no_bit(runner: TorchRunner, chunk: int) -> None:
    ids = prompts(1, 300)[0]
    assert_same_bits([generate(runner, ids, chunk)], [generate(runner, ids)])


def test_other_rows_change_no_bit(runner: TorchRunner) -> None:
    many = [[*ids, *ids[: 40 * index]] for index, ids in enumerate(prompts(6, 30))]
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in many]
    driver.generate(rows, OUTPUT, chunk=17)
    assert_same_bits(rows, [generate(runner, ids) for ids in many])


def test_a_rebuilt_sequence_goes_on_with_the_same_bits(runner: TorchRunner) -> None:
    ids = prompts(1, 50)[0]
    whole = generate(runner, ids)
    driver = Driver(runner)
    rebuilt = driver.open(ids, output=whole.output[:3])
    driver.generate([rebuilt], OUTPUT - 3, chunk=20)
    assert rebuilt.output == whole.output[3:]
    np.testing.assert_array_equal(rebuilt.logprobs, whole.logprobs[3:])


@pytest.mark.parametrize(("name", "ranks"), [("llama-tiny", 2), ("smollm2-tiny", 3)])
def test_ranks_change_no_bit_either(name: str, ranks: int, tmp_path: Path) -> None:
    """Three ranks' parts are added in one order, whatever the batch: without strict determinism they are not."""
    config = worker_config("bfloat16", memory_bytes=4 << 20, ranks=ranks)
    config = replace(config, model=replace(config.model, determinism="strict"))
    ids = prompts(1, 120)[0]
    with tensor_parallel(config, dummy_dir(name, tmp_path, "bfloat16"), tmp_path) as (runner, _):
        whole = generate(runner, ids)
        for chunk in (1, 7, 50):
            assert_same_bits([generate(runner, ids, chunk)], [whole])
