"""Roost's engine over its real runner, in the benchmark's own process: no gateway, no Ray, no Redis."""

import gc
import itertools
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from gpu_summary import CONTEXT, Sizes

from roost_worker.config import Dtype, EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Cancel, RequestOutput, SamplingParams, StopReason, Submit
from roost_worker.model.runner import build_runner

_NAMES = map(str, itertools.count())


@contextmanager
def open_engine(folder: Path, kernels: str, dtype: Dtype, sizes: Sizes) -> Iterator[Engine]:
    """Load the model and allocate KV memory, after the device's memory of engines before this one is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    config = WorkerConfig(
        pool="bench/gpu",
        model=ModelConfig("model", "file:///bench", dtype, context_tokens=CONTEXT),
        kv=KvConfig(memory_bytes=sizes.kv_bytes),
        engine=EngineConfig(sizes.most_running, sizes.batch_tokens, kernels=kernels),  # type: ignore[arg-type]
    )
    engine = Engine(build_runner(config, folder), config.engine, CONTEXT)
    try:
        yield engine
    finally:
        engine.close()


class Requests:
    """Requests that run together, none of which ends before it has its number of tokens."""

    def __init__(
        self, engine: Engine, prompts: Sequence[Sequence[int]], most: Sequence[int], *, temperature: float = 0.0
    ) -> None:
        self._engine = engine
        self._running: set[str] = set()
        self._outputs: dict[str, list[int]] = {}
        for seed, (prompt, tokens) in enumerate(zip(prompts, most, strict=True)):
            name, ids = next(_NAMES), array("I", prompt)
            sampling = SamplingParams(seed=seed, temperature=temperature, max_tokens=tokens)
            # A key of its own: nobody's blocks are found.
            engine.handle(Submit(name, ids, len(ids), sampling, name.encode()))
            self._running.add(name)
            self._outputs[name] = []

    @property
    def running(self) -> bool:
        """Whether any request has not ended yet."""
        return bool(self._running)

    @property
    def outputs(self) -> list[list[int]]:
        """The tokens of each request so far, in the order of the prompts."""
        return list(self._outputs.values())

    @property
    def tokens(self) -> int:
        """How many tokens all requests have got."""
        return sum(map(len, self._outputs.values()))

    def step(self) -> None:
        """Run one batch. Raise RuntimeError when the engine has failed a request."""
        for answer in _answers(self._engine):
            self._outputs[answer.request_id] += answer.token_ids
            if answer.stop is not None:
                self._running.discard(answer.request_id)

    def cancel(self) -> None:
        """End all requests."""
        for name in self._running:
            self._engine.handle(Cancel(name))
        while self._running:
            self.step()


def margin(engine: Engine, context: Sequence[int]) -> float:
    """Return by how many nats the likeliest token after `context` is ahead of the next one."""
    name, ids = next(_NAMES), array("I", context)
    engine.handle(Submit(name, ids, len(ids), SamplingParams(max_tokens=1, logprobs=2), name.encode()))
    while True:
        for answer in _answers(engine):
            if answer.logprobs:
                (_, first), (_, second) = answer.logprobs[0][1]
                return first - second


def _answers(engine: Engine) -> tuple[RequestOutput, ...]:
    outputs = engine.iterate()
    answers = outputs.outputs if outputs else ()
    for answer in answers:
        if answer.stop is StopReason.FAILED:
            raise RuntimeError(f"the engine failed a request: {answer.error}")
    return answers
