"""Drives a TorchRunner by hand: hands out blocks, cuts prompts into chunks, and keeps every distribution it saw."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.convert.dummy import write_dummy
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import SamplingParams, Submit
from roost_worker.engine.plan import BatchPlan, Chunk, NewSlot, Runner, Sampled


@contextmanager
def on_cpu() -> Iterator[None]:
    """Runners that are built inside compute on the CPU, also where there is a GPU."""
    with patch.object(torch.cuda, "is_available", return_value=False):
        yield


def dummy_dir(name: str, folder: Path, dtype: str = "float64") -> Path:
    """A folder of the model store with a tiny random model."""
    target = folder / f"{name}-{dtype}"
    if not target.exists():
        target.mkdir(parents=True)
        write_dummy(name, dtype, target)
    return target


def worker_config(
    dtype: str = "float64",
    *,
    context_tokens: int = 1024,
    block_tokens: int = 16,
    memory_bytes: int | None = 16 << 20,
    host_memory_bytes: int = 0,
    ranks: int = 1,
    max_running: int = 16,
    max_batch_tokens: int = 256,
) -> WorkerConfig:
    """A worker's config with small memory, in float64."""
    return WorkerConfig(
        pool="test/pool",
        model=ModelConfig("tiny", "dummy://tiny", dtype, ranks, context_tokens),
        kv=KvConfig(block_tokens, memory_bytes, host_memory_bytes=host_memory_bytes),
        engine=EngineConfig(max_running, max_batch_tokens),
    )


@dataclass
class Row:
    """One sequence under way."""

    slot: int
    ids: list[int]
    blocks: list[int]
    computed: int = 0
    output: list[int] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)


class Driver:
    """Runs sequences on a runner. Every sequence reports its whole distribution at each drawn token."""

    def __init__(self, runner: Runner, *, report: bool = True) -> None:
        self.runner = runner
        self._free = list(range(runner.info.num_blocks - 1, 0, -1))
        self._slots = iter(range(10_000))
        self._report = report

    def open(self, ids: Iterable[int], sampling: SamplingParams | None = None, output: Sequence[int] = ()) -> Row:
        """Takes a slot for a prompt (and output of an earlier run)."""
        row = Row(next(self._slots), [*ids, *output], [])
        params = sampling or SamplingParams()
        if self._report:
            params = replace(params, logprobs=self.runner.info.vocab_size)
        prompt = array("I", row.ids[: len(row.ids) - len(output)])
        self.runner.run(BatchPlan((), new_slots=(NewSlot(row.slot, params, prompt, array("I", output)),)))
        return row

    def chunk(self, row: Row, tokens: int) -> Chunk:
        """The next `tokens` of a row; draws a token if they are its last."""
        start, end = row.computed, min(len(row.ids), row.computed + tokens)
        block = self.runner.info.block_tokens
        while len(row.blocks) * block < end:
            row.blocks.append(self._free.pop())
        blocks = array("I", row.blocks[: -(-end // block)])
        return Chunk(row.slot, array("I", row.ids[start:end]), start, blocks, sample=end == len(row.ids))

    def step(self, work: Sequence[tuple[Row, int]]) -> tuple[Sampled, ...]:
        """One mixed batch of (row, tokens)."""
        chunks = tuple(self.chunk(row, tokens) for row, tokens in work)
        result = self.runner.run(BatchPlan(chunks))
        drawn = {sampled.slot: sampled for sampled in result.sampled}
        for (row, _), chunk in zip(work, chunks, strict=True):
            row.computed += len(chunk.token_ids)
            if chunk.sample:
                self._take(row, drawn[row.slot])
        return result.sampled

    def _take(self, row: Row, sampled: Sampled) -> None:
        row.ids += (sampled.token_id, *sampled.following)
        row.output += (sampled.token_id, *sampled.following)
        if self._report:
            distribution = np.full(self.runner.info.vocab_size, np.nan)
            ids, values = zip(*sampled.top, strict=True)
            distribution[list(ids)] = values
            row.logprobs.append(distribution)

    def generate(self, rows: Sequence[Row], tokens: int, *, chunk: int = 512) -> None:
        """Runs all rows until each has `tokens` of output: decode rows first, one prefill chunk beside them."""
        while pending := [row for row in rows if len(row.output) < tokens]:
            decode = [(row, 1) for row in pending if row.computed == len(row.ids) - 1]
            prefill = [(row, chunk) for row in pending if row.computed < len(row.ids) - 1][:1]
            self.step([*decode, *prefill])


def prompts(count: int, length: int, vocab: int = 259, seed: int = 0) -> list[list[int]]:
    """Random prompts of `length`, `length + 3`, …"""
    random = np.random.default_rng(seed)
    return [random.integers(0, vocab, length + 3 * index).tolist() for index in range(count)]


def outputs_of_an_engine(runner: Runner, sampling: Sequence[SamplingParams]) -> list[list[int]]:
    """What requests that begin together are answered. They end one by one, so that the rows of a step move."""
    engine = Engine(runner, worker_config(max_running=6).engine, 128)
    outputs: dict[str, list[int]] = {str(index): [] for index in range(len(sampling))}
    for name, ids, params in zip(outputs, prompts(len(sampling), 15), sampling, strict=True):
        params = replace(params, max_tokens=4 + 3 * ((int(name) + 1) % 3))
        engine.handle(Submit(name, array("I", ids), len(ids), params, b"tenant"))
    while (iteration := engine.iterate()) is not None:
        for output in iteration.outputs:
            outputs[output.request_id] += output.token_ids
    engine.check_integrity()
    return list(outputs.values())
