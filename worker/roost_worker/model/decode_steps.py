"""Decode steps of a static shape: batches of one token a sequence, padded to one of a few sizes.

All that varies from step to step is in tensors that stay where they are, so that a GPU records a step once, as a CUDA
graph, and repeats it with one launch. (Launched one by one, the kernels of a small model wait for Python.) Without a
GPU the same step is run as it is. A step draws its tokens, too, unless a draw depends on more than `Draws` says. They
stay on the device, where the next step can read them before the host has (`Chunk.awaits_draw`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from roost_worker.engine.plan import Chunk
from roost_worker.model.attention_triton import TritonAttention
from roost_worker.model.batch import BatchTensors
from roost_worker.model.decode_sizes import decode_sizes, padded_size
from roost_worker.model.drawing import Draws
from roost_worker.model.drawing_triton import TritonDrawing
from roost_worker.model.kv_cache import PagedKvCache
from roost_worker.model.llama import BatchMetadata, Llama

_Array = TypeVar("_Array", "np.ndarray", Tensor)
_TILE = 4
_COLUMNS = 10
_NOT_DRAWN = -1
_RUNS_BEFORE_CAPTURE = 2
"""Kernels are compiled, and libraries allocate what they need, in the first runs; a graph may do neither."""


@dataclass(frozen=True, slots=True)
class _Inputs(Generic[_Array]):
    """A step's inputs, views of one run of int64."""

    token_ids: _Array
    """[rows], like those up to `drawn_rows`."""
    positions: _Array
    kv_blocks: _Array
    kv_offsets: _Array
    seeds: _Array
    top_ks: _Array
    temperatures: _Array
    """The bits of float64, like those of `top_ps` and `min_ps`."""
    top_ps: _Array
    min_ps: _Array
    drawn_rows: _Array
    """Row of the last step whose draw is this row's token; `_NOT_DRAWN` where `token_ids` has it."""
    tiles: _Array
    """[rows, 4], as in `triton_kernels/attention.py`."""
    tables: _Array
    """[rows, most blocks of a sequence]."""

    @staticmethod
    def size(rows: int, blocks: int) -> int:
        return rows * (_COLUMNS + _TILE + blocks)

    def clear_behind(self, count: int) -> None:
        """Zero the inputs of the rows after the first `count`; `drawn_rows` are set, and block tables are not read."""
        for name in self.__slots__:
            if name not in ("drawn_rows", "tables"):
                getattr(self, name)[count:] = 0

    @classmethod
    def of(cls, numbers: _Array, rows: int, blocks: int) -> "_Inputs[_Array]":
        """Cut `numbers`, [size(rows, blocks)], into views."""
        columns = numbers[: rows * _COLUMNS].reshape(_COLUMNS, rows)
        rest = numbers[rows * _COLUMNS :]
        tiles, tables = rest[: rows * _TILE].reshape(rows, _TILE), rest[rows * _TILE :].reshape(rows, blocks)
        return cls(
            token_ids=columns[0],
            positions=columns[1],
            kv_blocks=columns[2],
            kv_offsets=columns[3],
            seeds=columns[4],
            top_ks=columns[5],
            temperatures=columns[6],
            top_ps=columns[7],
            min_ps=columns[8],
            drawn_rows=columns[9],
            tiles=tiles,
            tables=tables,
        )


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
        self.drawn_rows = inputs.drawn_rows
        self.draws = Draws(
            temperatures=inputs.temperatures.view(torch.float64),
            seeds=inputs.seeds,
            positions=inputs.positions,
            top_ks=inputs.top_ks,
            top_ps=inputs.top_ps.view(torch.float64),
            min_ps=inputs.min_ps.view(torch.float64),
        )
        self._copied: torch.cuda.Event | None = None
        """Passed once the GPU has read `_host`."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
        self.graph: torch.cuda.CUDAGraph | None = None

    def fill(
        self, chunks: Sequence[Chunk], draws: "Draws[np.ndarray] | None", rows_of_slots: Mapping[int, int]
    ) -> None:
        """Set the inputs. Rows without a chunk write KV nowhere and attend to nothing; without `draws` all rows take
        their largest logits. `rows_of_slots` are the last step's."""
        if self._copied is not None:
            self._copied.synchronize()
        inputs, count = self._inputs, len(chunks)
        starts = np.array([chunk.start for chunk in chunks])
        for row, chunk in enumerate(chunks):
            inputs.tables[row, : len(chunk.block_ids)] = chunk.block_ids  # what is left behind these is never read
        inputs.token_ids[:count] = [0 if chunk.awaits_draw else chunk.token_ids[0] for chunk in chunks]
        inputs.drawn_rows[:] = _NOT_DRAWN
        inputs.drawn_rows[:count] = [rows_of_slots[c.slot] if c.awaits_draw else _NOT_DRAWN for c in chunks]
        inputs.positions[:count] = starts
        inputs.kv_blocks[:count] = [chunk.block_ids[chunk.start // self._block_tokens] for chunk in chunks]
        inputs.kv_offsets[:count] = starts % self._block_tokens
        inputs.tiles[:count] = np.stack((np.arange(count), np.ones_like(starts), starts, np.arange(count)), axis=1)
        self._inputs.clear_behind(count)
        self._fill_draws(count, draws)
        self._numbers.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _fill_draws(self, count: int, draws: "Draws[np.ndarray] | None") -> None:
        inputs = self._inputs
        if draws is None:
            inputs.temperatures[:count] = 0
            return
        inputs.seeds[:count], inputs.top_ks[:count] = draws.seeds, draws.top_ks
        inputs.temperatures[:count] = draws.temperatures.view(np.int64)
        inputs.top_ps[:count], inputs.min_ps[:count] = draws.top_ps.view(np.int64), draws.min_ps.view(np.int64)


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
        self._drawing = TritonDrawing()
        self._tokens = torch.zeros(self._sizes[-1], dtype=torch.int64, device=cache.tensor.device)
        """What the last step drew, in its first rows."""
        self._rows_of_slots: dict[int, int] = {}
        """Which row was whose, in the last step."""
        self._logits: Tensor | None = None
        """[most rows, vocabulary]: what all graphs write."""

    def fits(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether `chunks` are a decode step: one token of each sequence, and no more sequences than fit."""
        return len(chunks) <= self._sizes[-1] and all(len(chunk.token_ids) == 1 for chunk in chunks)

    def run(self, chunks: Sequence[Chunk]) -> Tensor | None:
        """Run a decode step; return logits [draws, vocabulary], or None when nothing is drawn.

        The logits are valid until the next step.
        """
        logits = self._run(chunks, None)
        return logits[_drawing_rows(chunks)] if any(chunk.sample for chunk in chunks) else None

    def draw(self, chunks: Sequence[Chunk], draws: "Draws[np.ndarray]") -> Tensor:
        """Run a decode step and return the tokens of its draws, [draws] int64, valid until the next step.

        A chunk may have `DRAWN` for the token that the last step drew for its slot. On a GPU this does not wait for it.
        """
        self._run(chunks, draws)
        return self._tokens[_drawing_rows(chunks)]

    def _run(self, chunks: Sequence[Chunk], draws: "Draws[np.ndarray] | None") -> Tensor:
        """Return the logits of all rows, valid until the next step."""
        size = padded_size(len(chunks), self._sizes)
        assert size is not None
        step = self._steps[size]
        step.fill(chunks, draws, self._rows_of_slots)
        self._rows_of_slots = {chunk.slot: row for row, chunk in enumerate(chunks)}
        if step.graph is None:
            return self._compute(step)
        step.graph.replay()
        assert self._logits is not None
        return self._logits

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
                self._logits[:size].copy_(self._compute(step))
            step.graph, pool = graph, graph.pool()

    def _run_before_capture(self, step: _Step, stream: torch.cuda.Stream) -> Tensor:
        """Return the logits of the last run."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_RUNS_BEFORE_CAPTURE):
                logits = self._compute(step)
        torch.cuda.current_stream().wait_stream(stream)
        return logits

    def _compute(self, step: _Step) -> Tensor:
        """Return the logits of all rows; what they draw is in `_tokens`."""
        drawn = self._tokens[step.drawn_rows.clamp(min=0)]
        token_ids = torch.where(step.drawn_rows == _NOT_DRAWN, step.batch.token_ids, drawn)
        logits = self._model(replace(step.batch, token_ids=token_ids), self._cache, step.metadata)
        assert logits is not None
        # A token goes behind the one that its logits were computed from.
        draws = replace(step.draws, positions=step.draws.positions + 1)
        self._tokens[: len(logits)] = self._drawing.draw_on_device(logits, draws)
        return logits


def _drawing_rows(chunks: Sequence[Chunk]) -> slice | list[int]:
    """Return which rows draw; a slice needs no copy."""
    rows = [row for row, chunk in enumerate(chunks) if chunk.sample]
    return slice(len(rows)) if len(rows) == len(chunks) else rows
