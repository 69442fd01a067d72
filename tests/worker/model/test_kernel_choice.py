"""What a rank computes with, and that compiled kernels compute what torch's operators do."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from compiled_kernels import needs_compiler
from roost_worker.config import KernelChoice, Quantization
from roost_worker.convert.dummy import SPECS
from roost_worker.model.config import ModelConfigError
from roost_worker.model.kernel_choice import choose_kernels, share_of_cores, uses_triton
from roost_worker.model.runner import build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config

CPU = torch.device("cpu")
WAYS: tuple[Literal["auto", "torch"], ...] = ("auto", "torch")


@needs_compiler
@pytest.mark.parametrize("name", sorted(SPECS))
def test_distributions_are_those_of_torchs_operators(name: str, tmp_path: Path) -> None:
    """A prompt in two chunks and decoded rows, in float32."""
    model_dir = dummy_dir(name, tmp_path, "float32")
    expected, row = _generated(model_dir, "torch"), _generated(model_dir, "auto")
    assert row.ids == expected.ids
    np.testing.assert_allclose(row.logprobs, expected.logprobs, rtol=0, atol=2e-4)


@needs_compiler
def test_int8_weights_are_the_same_for_kernels_and_torch(tmp_path: Path) -> None:
    model_dir = dummy_dir("llama-tiny", tmp_path, "float32")
    plain, (expected, row) = _generated(model_dir, "auto"), (_generated(model_dir, way, "int8") for way in WAYS)
    assert row.ids == expected.ids
    np.testing.assert_allclose(row.logprobs, expected.logprobs, rtol=0, atol=2e-4)
    assert np.abs(row.logprobs[0] - plain.logprobs[0]).max() > 1e-3, "the weights are rounded"


def _generated(model_dir: Path, kernels: Literal["auto", "torch"], quantization: Quantization = "none") -> Row:
    config = worker_config("float32")
    model = replace(config.model, quantization=quantization)
    runner = build_runner(replace(config, model=model, engine=replace(config.engine, kernels=kernels)), model_dir)
    driver = Driver(runner)
    row = driver.open(prompts(1, 75)[0])
    driver.generate([row], 4, chunk=64)
    return row


@needs_compiler
def test_compiled_kernels_are_chosen_and_torch_keeps_one_thread(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_kernels("auto", torch.bfloat16, CPU, 2) is not None
    assert torch.get_num_threads() == 1
    assert "runs on compiled kernels" in caplog.text
    assert "2 threads" in caplog.text


@pytest.mark.parametrize(
    ("choice", "dtype", "device", "path", "reason"),
    [
        ("torch", torch.bfloat16, "cpu", "", "engine.kernels is torch"),
        ("auto", torch.float64, "cpu", "", "there are none for float64"),
        ("auto", torch.bfloat16, "cuda", "", "the model is on a GPU"),
        ("auto", torch.float32, "cpu", "/nowhere", "no C++ compiler: install one of"),
    ],
)
def test_torch_is_chosen_for_a_reason(
    choice: KernelChoice,
    dtype: torch.dtype,
    device: str,
    path: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if path:
        monkeypatch.setenv("PATH", path)
        monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.INFO):
        assert choose_kernels(choice, dtype, torch.device(device), 2) is None
    assert torch.get_num_threads() == 2
    assert f"because {reason}" in caplog.text


def test_strict_determinism_without_kernels_is_refused() -> None:
    with pytest.raises(ModelConfigError, match=r"strict needs compiled kernels.*none for float64; or use relaxed"):
        choose_kernels("auto", torch.float64, CPU, 1, required=True)


@pytest.mark.parametrize(
    ("choice", "device", "strict", "expected"),
    [
        ("triton", "cuda", False, True),
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        ("torch", "cuda", True, False),
        ("auto", "cpu", True, False),
    ],
)
def test_triton_is_chosen_or_for_strict_determinism_on_a_gpu(
    choice: KernelChoice, device: str, strict: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "cc")
    assert uses_triton(choice, torch.bfloat16, torch.device(device), strict=strict) is expected


def test_triton_where_it_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_INTERPRET", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ModelConfigError, match="kernels: triton needs a GPU; or use auto"):
        uses_triton("triton", torch.bfloat16, CPU, strict=False)
    with pytest.raises(ModelConfigError, match=r"a C compiler in the workers' image \(\$CC"):
        uses_triton("triton", torch.bfloat16, torch.device("cuda"), strict=False)
    with pytest.raises(ModelConfigError, match="strict on a GPU needs dtype bfloat16 or float32; or use relaxed"):
        uses_triton("auto", torch.float64, torch.device("cuda"), strict=True)


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("4,2", 4), ("", 8), ("many", 8), ("0", 8)])
def test_ranks_share_the_cores_unless_the_environment_says_how_many(
    given: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(17), raising=False)
    assert share_of_cores(2) == threads
