"""Decode steps of a static shape: batches of one token a sequence, padded to one of a few sizes.

All that varies from step to step is in tensors that stay where they are, so that a GPU records a step once, as a CUDA
graph, and repeats it with one launch. (Launched one by one, the kernels of a small model wait for Python.) Without a
GPU the same step is run as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from roost_worker.engine.plan import Chunk
from roost_worker.model.attention_triton import TritonAttention
from roost_worker.model.batch import BatchTensors
from roost_worker.model.decode_sizes import decode_sizes, padded_size
from roost_worker.model.kv_cache import PagedKvCache
from roost_worker.model.llama import BatchMetadata, Llama

_Array = TypeVar("_Array", "np.ndarray", Tensor)
_TILE = 4
_COLUMNS = 4
_RUNS_BEFORE_CAPTURE = 2
"""Kernels are compiled, and libraries allocate what they need, in the first runs; a graph may do neither."""


@dataclass(frozen=True, slots=True)
class _Inputs(Generic[_Array]):
    """A step's inputs, views of one run of int64."""

    token_ids: _Array
    """[rows], like those up to `kv_offsets`."""
    positions: _Array
    kv_blocks: _Array
    kv_offsets: _Array
    tiles: _Array
    """[rows, 4], as in `triton_kernels/attention.py`."""
    tables: _Array
    """[rows, most blocks of a sequence]."""

    @staticmethod
    def size(rows: int, blocks: int) -> int:
        return rows * (_COLUMNS + _TILE + blocks)

    @classmethod
    def of(cls, numbers: _Array, rows: int, blocks: int) -> "_Inputs[_Array]":
        """Cut `numbers`, [size(rows, blocks)], into views."""
        columns = numbers[: rows * _COLUMNS].reshape(_COLUMNS, rows)
        rest = numbers[rows * _COLUMNS :]
        tiles, tables = rest[: rows * _TILE].reshape(rows, _TILE), rest[rows * _TILE :].reshape(rows, blocks)
        return cls(columns[0], columns[1], columns[2], columns[3], tiles, tables)


class _Step:
    """The step of one size."""

    def __init__(self, rows: int, blocks: int, cache: PagedKvCache, backend: TritonAttention) -> None:
        device = cache.tensor.device
        size = _Inputs.size(rows, blocks)
        # From pinned memory a GPU copies asynchronously.
        self._host = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._numbers = torch.zeros(size, dtype=torch.int64, device=device)
        self._block_tokens = cache.shape.block_tokens
        self._inputs = _Inputs.of(self._host.numpy(), rows, blocks)
        inputs = _Inputs.of(self._numbers, rows, blocks)
        self.batch = BatchTensors(
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            kv_blocks=inputs.kv_blocks,
            kv_offsets=inputs.kv_offsets,
            sample_rows=torch.arange(rows, device=device),
            decode=(),
            prefill=(),
        )
        self.metadata = BatchMetadata(backend, backend.prepare_step(self.batch, inputs.tiles, inputs.tables))
        self._copied: torch.cuda.Event | None = None
        """Passed once the GPU has read `_host`."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
        self.graph: torch.cuda.CUDAGraph | None = None

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Set the inputs. Rows without a chunk write KV nowhere and attend to nothing."""
        if self._copied is not None:
            self._copied.synchronize()
        inputs, count = self._inputs, len(chunks)
        starts = np.array([chunk.start for chunk in chunks])
        for row, chunk in enumerate(chunks):
            inputs.tables[row, : len(chunk.block_ids)] = chunk.block_ids  # what is left behind these is never read
        inputs.token_ids[:count] = [chunk.token_ids[0] for chunk in chunks]
        inputs.positions[:count] = starts
        inputs.kv_blocks[:count] = [chunk.block_ids[chunk.start // self._block_tokens] for chunk in chunks]
        inputs.kv_offsets[:count] = starts % self._block_tokens
        inputs.tiles[:count] = np.stack((np.arange(count), np.ones_like(starts), starts, np.arange(count)), axis=1)
        for column in (inputs.token_ids, inputs.positions, inputs.kv_blocks, inputs.kv_offsets, inputs.tiles):
            column[count:] = 0
        self._numbers.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class DecodeSteps:
    """The steps of all sizes of one rank that is alone in its group."""

    def __init__(
        self, model: Llama, cache: PagedKvCache, backend: TritonAttention, *, most_rows: int, context_tokens: int
    ) -> None:
        """A step has at most `most_rows` sequences, each of at most `context_tokens`."""
        self._model, self._cache = model, cache
        self._sizes = decode_sizes(most_rows)
        blocks = -(-context_tokens // cache.shape.block_tokens)
        self._steps = {size: _Step(size, blocks, cache, backend) for size in self._sizes}
        self._logits: Tensor | None = None
        """What all graphs write, [most rows, vocabulary]."""

    def fits(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether `chunks` are a decode step: one token of each sequence, and no more sequences than fit."""
        return len(chunks) <= self._sizes[-1] and all(len(chunk.token_ids) == 1 for chunk in chunks)

    def run(self, chunks: Sequence[Chunk]) -> Tensor | None:
        """Run a decode step; return logits [draws, vocabulary], or None when nothing is drawn.

        The logits are valid until the next step.
        """
        size = padded_size(len(chunks), self._sizes)
        assert size is not None
        step = self._steps[size]
        step.fill(chunks)
        if step.graph is None:
            logits = self._forward(step)
        else:
            step.graph.replay()
            assert self._logits is not None
            logits = self._logits
        rows = [row for row, chunk in enumerate(chunks) if chunk.sample]
        if len(rows) == len(chunks):
            return logits[: len(rows)]
        return logits[rows] if rows else None

    @torch.inference_mode()
    def capture(self) -> None:
        """Record a CUDA graph of each size, the largest first, so that the others share its memory.

        Raise torch.OutOfMemoryError.
        """
        pool, stream = None, torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        for size in reversed(self._sizes):
            step = self._steps[size]
            logits = self._run_before_capture(step, stream)
            if self._logits is None:
                self._logits = torch.empty_like(logits)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self._logits[:size].copy_(self._forward(step))
            step.graph, pool = graph, graph.pool()

    def _run_before_capture(self, step: _Step, stream: torch.cuda.Stream) -> Tensor:
        """Return the logits of the last run."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_RUNS_BEFORE_CAPTURE):
                logits = self._forward(step)
        torch.cuda.current_stream().wait_stream(stream)
        return logits

    def _forward(self, step: _Step) -> Tensor:
        logits = self._model(step.batch, self._cache, step.metadata)
        assert logits is not None
        return logits
