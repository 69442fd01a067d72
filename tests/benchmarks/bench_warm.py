"""Time to the first token of a step whose session is on the device (hot), in host memory (warm), or nowhere (cold).

    .venv/bin/python tests/benchmarks/bench_warm.py
    .venv/bin/python tests/benchmarks/bench_warm.py --contexts 512 2048 8000 --rounds 5 --dtype bfloat16

The real engine on random weights of SmolLM2-135M's shapes, in this process, without gateway and shell. A session of
each context takes a step of 32 new tokens in each of the three ways, in turn. A prompt of the whole KV memory drives a
session to host memory, and Evict drops it everywhere; the step's cached tokens and the engine's counters must say so,
else the run fails. Then the copy of a block and its checksum are timed, and other checksums beside it. The last line
of stdout is one JSON document.
"""

import argparse
import hashlib
import random
import tempfile
import time
import zlib
from array import array
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from figures import emit, machine, spread

from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.convert.dummy import DummySpec, write_model
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Evict, SamplingParams, Submit
from roost_worker.engine.plan import HostCopy
from roost_worker.model.runner import TorchRunner, build_runner

SHAPES = DummySpec(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, tied=True)
STEP_TOKENS, BLOCK_TOKENS = 32, 32
HOST_BYTES = 256 << 20
WAYS = ("hot", "warm", "cold")
COPIES = 64


class Bench:
    """One session at a time on an engine whose KV memory holds one context."""

    def __init__(self, runner: TorchRunner, config: WorkerConfig, context: int) -> None:
        self.engine = Engine(runner, config.engine, config.model.context_tokens)
        self._context = context
        self._names = map(str, count())
        self._random = random.Random(0)
        self._log = self._ids(context)
        self._step("session", [])

    def first_token_ms(self, way: str) -> float:
        """Drive the session where `way` says, and time its next step."""
        if way == "warm":
            self._submit(None, self._ids(self.engine.info.capacity_tokens - 1))
            self._run()
        elif way == "cold":
            self.engine.handle(Evict("session"))
            self._run()
        before = self.engine.stats.restored_blocks
        began = time.perf_counter()
        cached = self._step("session", self._ids(STEP_TOKENS))
        seconds = time.perf_counter() - began
        restored = (self.engine.stats.restored_blocks - before) * BLOCK_TOKENS
        whole_blocks = (len(self._log) - STEP_TOKENS) // BLOCK_TOKENS * BLOCK_TOKENS
        expected = {"hot": (whole_blocks, 0), "warm": (whole_blocks, whole_blocks), "cold": (0, 0)}[way]
        if (cached // BLOCK_TOKENS * BLOCK_TOKENS, restored) != expected:
            raise SystemExit(f"not what it claims to measure: {way}, {cached} cached and {restored} restored tokens")
        del self._log[self._context :]
        return seconds * 1e3

    def _step(self, session: str, new: list[int]) -> int:
        """Run a step of one output token; return how many tokens of its context were cached."""
        self._log += new
        self._submit(session, self._log)
        return self._run()

    def _submit(self, session: str | None, ids: list[int]) -> None:
        sampling = SamplingParams(max_tokens=1)
        self.engine.handle(Submit(next(self._names), array("I", ids), len(ids), sampling, b"bench", session))

    def _run(self) -> int:
        cached = 0
        while outputs := self.engine.iterate():
            cached = max([cached, *(output.cached_tokens or 0 for output in outputs.outputs)])
        return cached

    def _ids(self, tokens: int) -> list[int]:
        return [self._random.randrange(self.engine.info.vocab_size) for _ in range(tokens)]


def copy_figures(runner: TorchRunner) -> dict[str, float]:
    """Gigabytes per second of a block's way out and back, checksums included, and of checksums alone."""
    block_bytes = runner.info.bytes_per_block
    block = runner._cache.tensor[1]
    data = block.cpu().view(torch.uint8).numpy()

    def rate(work: Callable[[], Any]) -> float:
        work()
        began = time.perf_counter()
        for _ in range(COPIES):
            work()
        return round(COPIES * block_bytes / (time.perf_counter() - began) / 1e9, 2)

    def copy(restore: bool) -> None:
        runner._host.start((HostCopy(1, 0, restore),))
        runner._host.finish()

    return {
        "offload": rate(lambda: copy(False)),
        "restore": rate(lambda: copy(True)),
        "weighted_sum": rate(lambda: runner._host._checksum(block)),
        "crc32": rate(lambda: zlib.crc32(data)),
        "blake2b": rate(lambda: hashlib.blake2b(data, digest_size=8).digest()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    document: dict[str, Any] = {"benchmark": "warm", "machine": machine(), "torch": torch.__version__, "contexts": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_model("warm", SHAPES, arguments.dtype, Path(folder))
        for context in arguments.contexts:
            limit = context + 16 * STEP_TOKENS
            block_bytes = 2 * SHAPES.layers * BLOCK_TOKENS * SHAPES.kv_heads * SHAPES.head_dim
            block_bytes *= getattr(torch, arguments.dtype).itemsize
            memory = (limit // BLOCK_TOKENS + 1) * block_bytes
            config = WorkerConfig(
                pool="bench/warm",
                model=ModelConfig("model", "dummy://warm", arguments.dtype, 1, limit),
                kv=KvConfig(BLOCK_TOKENS, memory, host_memory_bytes=HOST_BYTES),
                engine=EngineConfig(),
            )
            runner = build_runner(config, Path(folder))
            bench = Bench(runner, config, context)
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    times[way].append(bench.first_token_ms(way))
            figures = {way: spread(values) for way, values in times.items()}
            document["contexts"][str(context)] = figures
            document["gigabytes_per_second"] = copy_figures(runner)
            print(f"{context:6}", *(f"{way} {values['median']:9.1f} ms" for way, values in figures.items()), flush=True)
            bench.engine.close()
    emit(document)


if __name__ == "__main__":
    main()
