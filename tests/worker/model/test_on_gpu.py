"""A CUDA device computes what the CPU computes. The rest of this folder runs on a device too, where there is one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from follower_rank import spawn_rank
from roost_worker.convert.dummy import SPECS
from roost_worker.engine.messages import SamplingParams
from roost_worker.model.config import ModelConfigError
from roost_worker.model.logits import truncate
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, on_cpu, outputs_of_an_engine, prompts, worker_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

OUTPUT = 16
SAMPLING = (
    SamplingParams(),
    SamplingParams(seed=9, temperature=1.0),
    SamplingParams(seed=10, temperature=0.8, top_p=0.9, top_k=40, min_p=0.01, frequency_penalty=0.3),
    SamplingParams(repetition_penalty=1.2, presence_penalty=0.1, logit_bias=((7, 2.0),)),
)


CONFIG = worker_config(context_tokens=512, memory_bytes=32 << 20)


PLAIN = (
    *SAMPLING[:2],
    SamplingParams(seed=11, temperature=0.6, top_p=0.95, top_k=20),
    SamplingParams(seed=12, temperature=1.0, min_p=0.1),
)
"""Steps of static shapes draw these themselves, if no log-probabilities are reported."""


def _generate(runner: TorchRunner, sampling: Sequence[SamplingParams] = SAMPLING, *, report: bool = True) -> list[Row]:
    """Rows of all kinds of sampling in mixed batches: prefill chunks beside decode rows."""
    driver = Driver(runner, report=report)
    rows = [driver.open(ids, params) for ids, params in zip(prompts(4, 70), sampling, strict=True)]
    driver.generate(rows, OUTPUT, chunk=33)
    return rows


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_gpu_draws_the_tokens_that_the_cpu_draws(name: str, tmp_path: Path) -> None:
    model_dir = dummy_dir(name, tmp_path)
    with on_cpu():
        runners = [build_runner(CONFIG, model_dir)]
    runners.append(build_runner(CONFIG, model_dir))
    assert [runner.info.device for runner in runners] == ["cpu", "cuda"]
    for row, other in zip(*(_generate(runner) for runner in runners), strict=True):
        assert row.output == other.output
        np.testing.assert_allclose(row.logprobs, other.logprobs, rtol=0, atol=1e-9)


def test_decode_steps_as_graphs_draw_the_tokens_of_steps_that_are_launched(tmp_path: Path) -> None:
    config = worker_config("bfloat16", context_tokens=512, memory_bytes=32 << 20)
    config = replace(config, engine=replace(config.engine, kernels="triton"))
    runner = build_runner(config, dummy_dir("qwen3-tiny", tmp_path, "bfloat16"))
    steps = runner._decode_steps
    assert steps is not None
    graphs, drawn = _generate(runner), _generate(runner, PLAIN, report=False)
    assert all(step.graph is not None for step in steps._steps.values())
    for step in steps._steps.values():
        step.graph = None
    for row, launched in zip(graphs, _generate(runner), strict=True):
        assert row.output == launched.output
        np.testing.assert_array_equal(row.logprobs, launched.logprobs)
    for reported in (False, True):  # with reports, tokens are drawn after the step
        launched_rows = _generate(runner, PLAIN, report=reported)
        assert [row.output for row in launched_rows] == [row.output for row in drawn]


def test_steps_that_are_begun_ahead_draw_the_tokens_of_steps_that_wait(tmp_path: Path) -> None:
    config = worker_config("bfloat16", context_tokens=512, memory_bytes=32 << 20)
    config = replace(config, engine=replace(config.engine, kernels="triton"))
    runner = build_runner(config, dummy_dir("qwen3-tiny", tmp_path, "bfloat16"))
    with patch.object(TorchRunner, "begin", return_value=None):
        expected = outputs_of_an_engine(runner, PLAIN)
    with patch.object(TorchRunner, "begin", autospec=True, side_effect=TorchRunner.begin) as begin:
        assert outputs_of_an_engine(runner, PLAIN) == expected
    assert any(chunk.awaits_draw for call in begin.call_args_list for chunk in call.args[1].chunks)


def test_the_nucleus_of_a_row_does_not_depend_on_other_rows() -> None:
    logits = torch.randn(5, 50_000, generator=torch.Generator().manual_seed(1)).cuda()
    top_k, top_p = torch.zeros(5, dtype=torch.int64, device="cuda"), torch.full((5,), 0.7, device="cuda")
    values, _ = truncate(logits, top_k, top_p)
    for row in range(5):
        rows = slice(row, row + 1)
        assert torch.equal(truncate(logits[rows], top_k[rows], top_p[rows])[0], values[rows])


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs one CUDA device and no more")
def test_two_ranks_on_one_gpu_are_refused(tmp_path: Path) -> None:
    model_dir, config = dummy_dir("llama-tiny", tmp_path), worker_config(ranks=2)
    meeting_point = (tmp_path / "meeting-point").as_uri()
    follower = spawn_rank(config, model_dir, 1, 2, meeting_point)
    try:
        with pytest.raises(ModelConfigError, match="2 ranks need as many GPUs and see 1"):
            build_runner(config, model_dir, rank=0, world=2, init_method=meeting_point)
        assert follower.wait(timeout=60) != 0
    finally:
        follower.kill()
        follower.wait()
        dist.destroy_process_group()
