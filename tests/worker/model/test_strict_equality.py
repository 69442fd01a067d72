"""In float64 a sequence's tokens and distributions do not depend on how its computation was cut, shared or batched."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reference_attention import ReferenceAttention
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.attention_prefill import MatmulPrefill
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, on_cpu, prompts, worker_config

BLOCK = 16
CHUNKS = (1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 512)
OUTPUT = 12


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy_dir("llama-tiny", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runner(model_dir: Path) -> TorchRunner:
    return build_runner(worker_config(block_tokens=BLOCK), model_dir)


def _generate(runner: TorchRunner, ids: list[int], *, chunk: int = 512) -> Row:
    driver = Driver(runner)
    row = driver.open(ids)
    driver.generate([row], OUTPUT, chunk=chunk)
    return row


def _assert_equal(rows: list[Row], expected: list[Row]) -> None:
    for row, other in zip(rows, expected, strict=True):
        assert row.output == other.output
        np.testing.assert_allclose(row.logprobs, other.logprobs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunk_size_changes_nothing(runner: TorchRunner, chunk: int) -> None:
    ids = prompts(1, 70)[0]
    _assert_equal([_generate(runner, ids, chunk=chunk)], [_generate(runner, ids, chunk=len(ids))])


def test_a_chunk_of_512_in_a_longer_prompt_changes_nothing(runner: TorchRunner) -> None:
    ids = prompts(1, 700)[0]
    _assert_equal([_generate(runner, ids, chunk=512)], [_generate(runner, ids, chunk=700)])


@pytest.mark.parametrize("size", [2, 3, 8])
def test_batch_size_changes_nothing(runner: TorchRunner, size: int) -> None:
    many = [[*ids, *ids[: 40 * index]] for index, ids in enumerate(prompts(size, 30))]
    alone = [_generate(runner, ids) for ids in many]
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in many]
    driver.generate(rows, OUTPUT, chunk=17)
    _assert_equal(rows, alone)


def test_rows_may_come_in_any_order_of_length(runner: TorchRunner) -> None:
    many = prompts(5, 20)[::-1] + prompts(2, 90)
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in many]
    driver.step([(row, 512) for row in rows])
    driver.generate(rows, OUTPUT)
    _assert_equal(rows, [_generate(runner, ids) for ids in many])


def test_several_prefills_in_one_batch_change_nothing(runner: TorchRunner) -> None:
    many = prompts(4, 40)
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in many]
    driver.step([(rows[0], 512), (rows[1], 25)])
    driver.step([(rows[2], 31), (rows[0], 1), (rows[1], 512), (rows[3], 512)])
    driver.generate(rows, OUTPUT)
    _assert_equal(rows, [_generate(runner, ids) for ids in many])


def test_preemption_changes_nothing(runner: TorchRunner) -> None:
    ids = prompts(1, 50)[0]
    driver = Driver(runner)
    first = driver.open(ids)
    driver.generate([first], 5)
    second = driver.open(ids, output=first.output)
    driver.generate([second], OUTPUT - 5, chunk=7)
    whole = _generate(runner, ids)
    assert first.output + second.output == whole.output
    np.testing.assert_allclose(first.logprobs + second.logprobs, whole.logprobs, rtol=0, atol=1e-10)


def test_a_shared_prefix_changes_nothing(runner: TorchRunner) -> None:
    prefix, tails = prompts(1, 3 * BLOCK)[0], prompts(2, 9, seed=1)
    driver = Driver(runner)
    first = driver.open(prefix + tails[0])
    driver.step([(first, 512)])
    second = driver.open(prefix + tails[1])
    second.blocks, second.computed = first.blocks[:3], len(prefix)
    driver.generate([first, second], OUTPUT)
    _assert_equal([first, second], [_generate(runner, prefix + tail) for tail in tails])


def test_the_null_block_stays_zero(runner: TorchRunner) -> None:
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in prompts(3, 20)]
    driver.generate(rows, 3)
    assert not runner._cache.tensor[0].any()


@pytest.mark.parametrize("chunk", [7, 33, 512])
def test_the_backend_equals_the_reference(runner: TorchRunner, model_dir: Path, chunk: int) -> None:
    with on_cpu():
        reference = build_runner(worker_config(block_tokens=BLOCK), model_dir)
    reference._backend = ReferenceAttention(torch.float64, torch.device("cpu"))
    ids = prompts(1, 90)[0]
    _assert_equal([_generate(runner, ids, chunk=chunk)], [_generate(reference, ids, chunk=chunk)])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_prefill_by_matmul_equals_prefill_by_sdpa(runner: TorchRunner, model_dir: Path, chunk: int) -> None:
    with on_cpu():
        other = build_runner(worker_config(block_tokens=BLOCK), model_dir)
    assert isinstance(other._backend, GatheredAttention)
    other._backend._prefill = MatmulPrefill(other._cache.shape, torch.float64)
    ids = prompts(1, 90)[0]
    _assert_equal([_generate(other, ids, chunk=chunk)], [_generate(runner, ids, chunk=chunk)])


def test_bfloat16_is_close_to_the_same_weights_in_float32(model_dir: Path) -> None:
    ids = prompts(1, 90)[0]
    rows = [
        _generate(build_runner(worker_config(dtype, block_tokens=BLOCK), model_dir), ids, chunk=40)
        for dtype in ("bfloat16", "float32")
    ]
    np.testing.assert_allclose(rows[0].logprobs[0], rows[1].logprobs[0], rtol=0, atol=1.5)


def test_rows_longer_than_the_scratch_are_taken_alone(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost_worker.model.attention_gathered.SCRATCH_BYTES", {"cpu": 4096, "cuda": 4096})
    cramped = build_runner(worker_config(block_tokens=BLOCK), model_dir)
    many = prompts(3, 60)
    driver = Driver(cramped)
    rows = [driver.open(ids) for ids in many]
    driver.generate(rows, OUTPUT, chunk=33)
    monkeypatch.undo()
    roomy = build_runner(worker_config(block_tokens=BLOCK), model_dir)
    _assert_equal(rows, [_generate(roomy, ids) for ids in many])
