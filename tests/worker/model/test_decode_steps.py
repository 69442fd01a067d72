"""Decode steps of static shapes draw what batches of any shape draw. On GPUs they are CUDA graphs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import interpreted_kernels  # noqa: F401  before what imports the kernels
from roost_worker.config import KernelChoice, KvDtype
from roost_worker.engine.messages import SamplingParams
from roost_worker.engine.plan import BatchPlan, Chunk
from roost_worker.model.decode_sizes import MOST_ROWS, decode_sizes, padded_size
from roost_worker.model.decode_steps import DecodeSteps
from roost_worker.model.drawing import Draws
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, outputs_of_an_engine, prompts, worker_config


@pytest.mark.parametrize("most", [1, 2, 3, 8, 33, 64, 65, 100, MOST_ROWS])
def test_every_batch_has_a_size_that_wastes_little(most: int) -> None:
    sizes = decode_sizes(most)
    assert list(sizes) == sorted(set(sizes))
    assert padded_size(most + 1, sizes) is None
    for rows in range(1, most + 1):
        size = padded_size(rows, sizes)
        assert size is not None
        assert 0 <= size - rows < (8 if rows <= 64 else 32)


def test_steps_of_more_rows_have_no_size() -> None:
    assert decode_sizes(MOST_ROWS + 1) == decode_sizes(MOST_ROWS)


def runner_of(folder: Path, kernels: KernelChoice, name: str = "qwen3-tiny", kv_dtype: KvDtype = "auto") -> TorchRunner:
    config = worker_config("float32", context_tokens=128, max_running=6)
    config = replace(config, engine=replace(config.engine, kernels=kernels), kv=replace(config.kv, dtype=kv_dtype))
    return build_runner(config, dummy_dir(name, folder, "float32"))


SAMPLING = (
    SamplingParams(),
    SamplingParams(seed=4, temperature=1.0),
    SamplingParams(seed=-5, temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
)


def generated(runner: TorchRunner, *, report: bool) -> list[Row]:
    driver = Driver(runner, report=report)
    rows = [driver.open(ids, params) for ids, params in zip(prompts(3, 15), SAMPLING, strict=True)]
    driver.generate(rows, 7, chunk=24)
    return rows


@pytest.mark.parametrize(
    ("name", "method", "kv_dtype"),
    [("qwen3-tiny", "run", "auto"), ("smollm2-tiny", "draw", "auto"), ("qwen3-tiny", "run", "int8")],
)
def test_static_steps_draw_the_tokens_of_batches_of_any_shape(
    name: str, method: str, kv_dtype: KvDtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts end at different times, so that mixed batches and steps of one, two and three rows take turns. Steps of
    sequences that report nothing draw the tokens themselves."""
    report = method == "run"
    expected = generated(runner_of(tmp_path, "torch", name, kv_dtype), report=report)
    sizes: list[int] = []
    step = getattr(DecodeSteps, method)
    monkeypatch.setattr(
        DecodeSteps, method, lambda steps, chunks, *draws: sizes.append(len(chunks)) or step(steps, chunks, *draws)
    )
    rows = generated(runner_of(tmp_path, "triton", name, kv_dtype), report=report)
    assert set(sizes) >= {2, 3}
    for row, plain in zip(rows, expected, strict=True):
        assert row.output == plain.output
        if report:
            np.testing.assert_allclose(row.logprobs, plain.logprobs, rtol=0, atol=2e-4)


def test_steps_read_the_tokens_of_the_step_before_where_it_drew_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outputs_of_an_engine(runner_of(tmp_path, "torch"), SAMPLING)
    rows: list[int] = []
    draw = DecodeSteps.draw

    def counted(steps: DecodeSteps, chunks: Sequence[Chunk], draws: "Draws[np.ndarray]") -> torch.Tensor:
        rows.append(sum(chunk.awaits_draw for chunk in chunks))
        return draw(steps, chunks, draws)

    monkeypatch.setattr(DecodeSteps, "draw", counted)
    assert outputs_of_an_engine(runner_of(tmp_path, "triton"), SAMPLING) == expected
    assert set(rows) == {0, 1, 2, 3}


def test_a_step_does_not_draw_if_penalties_come_before(tmp_path: Path) -> None:
    driver = Driver(runner_of(tmp_path, "triton"), report=False)
    plain, penalised = (driver.open(prompts(1, 2)[0], SamplingParams(presence_penalty=by)) for by in (0.0, 1.0))
    driver.step([(plain, 2), (penalised, 2)])
    with patch.object(DecodeSteps, "draw", autospec=True, side_effect=DecodeSteps.draw) as draw:
        driver.step([(plain, 1), (penalised, 1)])
        assert not draw.called
        driver.step([(plain, 1)])
        assert draw.called


@pytest.mark.parametrize("report", [False, True])
def test_rows_that_pad_a_step_leave_the_null_block_alone_and_what_is_not_drawn_is_left_out(
    tmp_path: Path, *, report: bool
) -> None:
    runner = runner_of(tmp_path, "triton")
    driver = Driver(runner, report=report)
    rows = [driver.open(ids) for ids in prompts(3, 2)]
    driver.step([(row, 8) for row in rows])
    rows[1].ids += [7, 8]  # so that its next token is not its last
    sampled = driver.step([(row, 1) for row in rows])
    assert [drawn.slot for drawn in sampled] == [rows[0].slot, rows[2].slot]
    assert not runner._cache.tensor[0].any()
    chunk = replace(driver.chunk(rows[1], 1), sample=False)
    assert runner.run(BatchPlan((chunk,))).sampled == ()
