"""A CUDA device computes what the CPU computes. The rest of this folder runs on a device too, where there is one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roost_worker.convert.dummy import SPECS
from roost_worker.engine.messages import SamplingParams
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

OUTPUT = 16
SAMPLING = (
    SamplingParams(),
    SamplingParams(seed=9, temperature=1.0),
    SamplingParams(seed=10, temperature=0.8, top_p=0.9, top_k=40, min_p=0.01, frequency_penalty=0.3),
    SamplingParams(repetition_penalty=1.2, presence_penalty=0.1, logit_bias=((7, 2.0),)),
)


def _runner(model_dir: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> TorchRunner:
    with monkeypatch.context() as patch:
        if device == "cpu":
            patch.setattr(torch.cuda, "is_available", lambda: False)
        return build_runner(worker_config(context_tokens=512, memory_bytes=32 << 20), model_dir)


def _generate(runner: TorchRunner) -> list[Row]:
    """Rows of all kinds of sampling in mixed batches: prefill chunks beside decode rows."""
    driver = Driver(runner)
    rows = [driver.open(ids, params) for ids, params in zip(prompts(4, 70), SAMPLING, strict=True)]
    driver.generate(rows, OUTPUT, chunk=33)
    return rows


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_gpu_draws_the_tokens_that_the_cpu_draws(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_dir = dummy_dir(name, tmp_path)
    runners = [_runner(model_dir, monkeypatch, device) for device in ("cpu", "cuda")]
    assert [runner._cache.tensor.device.type for runner in runners] == ["cpu", "cuda"]
    for one, other in zip(*(_generate(runner) for runner in runners), strict=True):
        assert one.output == other.output
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-9)
