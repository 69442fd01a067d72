"""Runs batch plans on the model. Rank 0 leads and draws tokens, the other ranks follow its plans."""

import contextlib
import json
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from roost_worker.config import WorkerConfig
from roost_worker.engine.plan import BatchPlan, BatchResult, Chunk, RunnerInfo, Sampled
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_choice import attention_parts
from roost_worker.model.batch import build_batch
from roost_worker.model.config import DecoderConfig, read_config
from roost_worker.model.drawing import Drawing
from roost_worker.model.host_kv import HostKv
from roost_worker.model.kernel_choice import choose_kernels, share_of_cores, uses_triton
from roost_worker.model.kv_cache import (
    KvShape,
    PagedKvCache,
    automatic_memory,
    blocks_that_fit,
    bytes_per_block,
    free_host_memory,
    host_slots,
)
from roost_worker.model.layers import HeadShare
from roost_worker.model.linear import Linears
from roost_worker.model.llama import BatchMetadata, Llama
from roost_worker.model.loader import WEIGHTS_FILE, Weights
from roost_worker.model.parallel import RankGroup
from roost_worker.model.running_step import RunningStep
from roost_worker.model.sampler import Sampler

if TYPE_CHECKING:
    from roost_worker.grammar import GrammarCompiler, GrammarState
    from roost_worker.model.decode_steps import DecodeSteps


class LazyGrammar:
    """A grammar compiler that is created on first use: an engine without grammars does not import llguidance."""

    def __init__(self, model_dir: Path, eos_token_ids: tuple[int, ...], vocab_size: int) -> None:
        self._arguments = (model_dir / "tokenizer.json", eos_token_ids, vocab_size)
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None

    def check(self, grammar: str) -> str:
        """Return why a grammar is refused, or an empty string. Callable from any thread."""
        return str(self._get_compiler().check(grammar))

    def start(self, grammar: str, output: Sequence[int]) -> "GrammarState":
        """Return a state that has consumed `output`. Raise GrammarError, a ValueError."""
        state = self._get_compiler().start(grammar)
        state.consume(output)
        return state

    def _get_compiler(self) -> "GrammarCompiler":
        from roost_worker.grammar import GrammarCompiler

        with self._lock:
            if self._compiler is None:
                self._compiler = GrammarCompiler(*self._arguments)
            return self._compiler


class TorchRunner:
    """One rank's model, KV memory and, on rank 0, sampler. Implements `engine.plan.Runner`; see `build_runner`."""

    def __init__(
        self,
        model: Llama,
        cache: PagedKvCache,
        host: HostKv,
        backend: AttentionBackend,
        info: RunnerInfo,
        group: RankGroup,
        grammar: LazyGrammar,
        sampler: Sampler,
        decode_steps: "DecodeSteps | None" = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._host = host
        self._backend = backend
        self._decode_steps = decode_steps
        self._info = info
        self._group = group
        self._grammar = grammar
        self._sampler = sampler

    @property
    def info(self) -> RunnerInfo:
        return self._info

    @property
    def group(self) -> RankGroup:
        return self._group

    def check_grammar(self, grammar: str) -> str:
        """Compile a grammar, off the engine loop; return why it is refused, or an empty string."""
        return self._grammar.check(grammar)

    def run(self, plan: BatchPlan) -> BatchResult:
        """Run one plan on all ranks and draw its tokens. Raise RuntimeError when a rank is gone."""
        # Only rank 0 samples, so the other ranks need no slots, with their prompts for the repetition penalty.
        self._group.send_plan(BatchPlan(plan.chunks, copies=plan.copies))
        self._host.start(plan.copies)
        started = time.perf_counter()
        self._sampler.free(plan.freed_slots)
        for new in plan.new_slots:
            self._sampler.take(new)
        sampled = self._run_and_sample(plan)
        seconds = time.perf_counter() - started
        copied = self._host.finish()
        return BatchResult(sampled, seconds, self._group.all_true(copied.intact), copied.seconds)

    @torch.inference_mode()
    def begin(self, plan: BatchPlan) -> RunningStep | None:
        """Begin a decode step of static shapes that draws its own tokens. Return None if `plan` is anything else.

        With several ranks it always returns None: only rank 0's device has the tokens that the next step would read.
        """
        steps = self._steps_for(plan.chunks)
        if steps is None or self._group.world > 1 or plan.copies or plan.new_slots:
            return None
        if not plan.chunks or not all(chunk.sample for chunk in plan.chunks):
            return None
        draws = self._sampler.draws_of_step(plan.chunks)
        if draws is None:
            return None
        self._sampler.free(plan.freed_slots)
        draw = partial(steps.draw, plan.chunks, draws)
        return RunningStep(plan.chunks, draw, self._sampler.take_drawn, self._cache.tensor.device)

    def follow(self, plan: BatchPlan) -> None:
        """Run one plan of rank 0, on another rank. Raise RuntimeError when a rank is gone."""
        self._host.start(plan.copies)
        self.forward(plan)
        self._group.all_true(self._host.finish().intact)

    @torch.inference_mode()
    def _run_and_sample(self, plan: BatchPlan) -> tuple[Sampled, ...]:
        sampled = [chunk for chunk in plan.chunks if chunk.sample]
        if not sampled:
            self.forward(plan)
            self._await_device()
            return ()
        steps = self._steps_for(plan.chunks)
        draws = None if steps is None else self._sampler.draws_of_step(plan.chunks)
        if steps is not None and draws is not None:
            return self._sampler.take_drawn(sampled, steps.draw(plan.chunks, draws))
        logits = self._logits(plan, steps)
        assert logits is not None, "rank 0 has the logits"
        return self._sampler.sample(logits, sampled)

    def _steps_for(self, chunks: Sequence[Chunk]) -> "DecodeSteps | None":
        """Return the steps of static shapes if `chunks` are one of them."""
        return self._decode_steps if self._decode_steps is not None and self._decode_steps.fits(chunks) else None

    def _await_device(self) -> None:
        """Wait for the GPU. Without a token to read nothing else does, and the batch would seem to take no time."""
        if self._cache.tensor.is_cuda:
            torch.cuda.synchronize(self._cache.tensor.device)

    @torch.inference_mode()
    def forward(self, plan: BatchPlan) -> torch.Tensor | None:
        """Run the forward pass; return logits [draws, vocabulary] of `BatchTensors.sample_rows` on rank 0, or None."""
        return self._logits(plan, self._steps_for(plan.chunks)) if plan.chunks else None

    def _logits(self, plan: BatchPlan, steps: "DecodeSteps | None") -> torch.Tensor | None:
        """Return what `forward` does, of chunks for which `_steps_for` returned `steps`."""
        if steps is not None:
            return steps.run(plan.chunks)
        batch = build_batch(plan.chunks, self._cache.shape.block_tokens, self._cache.tensor.device)
        return self._model(batch, self._cache, BatchMetadata(self._backend, self._backend.prepare(batch)))

    def close(self) -> None:
        """End the followers and leave the group. It is not an error if a follower has ended already."""
        if self._group.rank == 0:
            with contextlib.suppress(RuntimeError):  # the group is broken: its other ranks end by their own errors
                self._group.send_plan(None)
        self._group.leave()


def follow(runner: TorchRunner) -> None:
    """Run rank 0's plans, on the other ranks, until it closes. Raise RuntimeError when rank 0 is gone."""
    while (plan := runner.group.receive_plan()) is not None:
        runner.follow(plan)
    runner.close()


def build_runner(
    config: WorkerConfig, model_dir: Path, *, rank: int = 0, world: int = 1, init_method: str | None = None
) -> TorchRunner:
    """Load this rank's share of a prepared model and allocate its KV memory.

    Args:
        config: the worker's.
        model_dir: a folder of the model store.
        world: number of ranks, which must be the config's tensorParallel.
        init_method: where the ranks meet, in torch.distributed's form; required if world > 1.
    Raises:
        ModelConfigError: the model or its combination with the config is not supported.
        WeightsError: the weights are missing, damaged or another model's.
        RuntimeError: the group did not form.
    """
    decoder = read_config(model_dir)
    decoder.check_tensor_parallel(world)
    decoder.check_context(config.model.context_tokens)
    device = _device(rank)
    is_strict = config.model.determinism == "strict"
    group = RankGroup.join(rank, world, init_method, device, sums_in_order=is_strict)
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    by_triton = uses_triton(config.engine.kernels, dtype, device, strict=is_strict)
    kernels = choose_kernels(
        config.engine.kernels, dtype, device, share_of_cores(world), required=is_strict and not by_triton
    )
    linears = Linears(kernels, config.model.quantization, by_triton=by_triton and is_strict)
    # Weights first: automatic KV memory is a share of what they leave.
    with torch.inference_mode():
        weights = Weights(model_dir / WEIGHTS_FILE, dtype, device)
        model = Llama(weights, decoder, group, config.model.context_tokens, linears)
    shape, info = _plan_memory(config, decoder, group, dtype, device, _eos_token_ids(model_dir, decoder))
    cache = PagedKvCache(shape, dtype, device)
    host = HostKv(info.host_slots, cache)
    grammar = LazyGrammar(model_dir, info.eos_token_ids, info.vocab_size)
    backend, steps = attention_parts(config, decoder, model, cache, group, kernels, by_triton=by_triton)
    sampler = Sampler(
        info.vocab_size,
        device,
        grammar.start,
        max_forced_tokens=config.engine.max_forced_tokens,
        drawing=_drawing_by_triton(info.vocab_size, dtype, device) if by_triton else None,
    )
    runner = TorchRunner(model, cache, host, backend, info, group, grammar, sampler, decode_steps=steps)
    if by_triton:
        runner.forward(_FIRST_PLAN)
    return runner


def _drawing_by_triton(vocab_size: int, dtype: torch.dtype, device: torch.device) -> Drawing:
    """Return the drawing, with its kernels compiled for logits of `dtype` and for those that were processed."""
    from roost_worker.model.drawing_triton import TritonDrawing  # here, because it needs triton

    drawing = TritonDrawing()
    for logits_dtype in {dtype, torch.float32}:
        drawing.largest(torch.zeros(1, vocab_size, dtype=logits_dtype, device=device))
    return drawing


_FIRST_PLAN = BatchPlan(
    (Chunk(0, array("I", [0, 0]), 0, array("I", [0]), False), Chunk(1, array("I", [0]), 0, array("I", [0]), False))
)
"""A mixed batch in the null block, to which Triton's kernels write nothing: they are compiled on all ranks before the
first request, or show that they cannot be."""


def _plan_memory(
    config: WorkerConfig,
    decoder: DecoderConfig,
    group: RankGroup,
    dtype: torch.dtype,
    device: torch.device,
    eos_token_ids: tuple[int, ...],
) -> tuple[KvShape, RunnerInfo]:
    """Return the shape of the KV cache and the runner's info, which are the same on every rank."""
    kv_heads, block_tokens, context = (
        HeadShare.of(decoder, group).kv_heads,
        config.kv.block_tokens,
        config.model.context_tokens,
    )
    memory = config.kv.memory_bytes
    if memory is None:
        memory = group.smallest(automatic_memory(device, group.world)) * group.world
    shape = KvShape(0, decoder.num_layers, block_tokens, kv_heads, decoder.head_dim, is_int8=config.kv.dtype == "int8")
    block_bytes = bytes_per_block(shape, dtype) * group.world
    num_blocks = blocks_that_fit(memory, block_bytes, block_tokens, context)
    info = RunnerInfo(
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        bytes_per_block=block_bytes,
        vocab_size=decoder.vocab_size,
        context_tokens=context,
        eos_token_ids=eos_token_ids,
        device=device.type,
        pair_cost=decoder.pair_cost,
        host_slots=_host_slots(config.kv.host_memory_bytes, block_bytes, group, memory if device.type == "cpu" else 0),
        ranks=group.world,
    )
    return replace(shape, num_blocks=num_blocks), info


def _host_slots(host_memory: int, block_bytes: int, group: RankGroup, kv_memory: int) -> int:
    """Return the slots of host memory, besides which the host has `kv_memory` bytes of KV to hold, not taken yet."""
    if not host_memory:
        return 0
    # No rank goes on, and takes its part, before all have looked at what they have to share.
    return host_slots(host_memory, block_bytes, group.smallest(free_host_memory()) - kv_memory)


def _eos_token_ids(model_dir: Path, decoder: DecoderConfig) -> tuple[int, ...]:
    """Return the template's end-of-turn ids, or the model's own in a folder without a template."""
    path = model_dir / "template.json"
    if not path.exists():
        return decoder.eos_token_ids
    return tuple(json.loads(path.read_text(encoding="utf-8"))["eos_token_ids"])


def _device(rank: int) -> torch.device:
    """Return the rank's own GPU, or the CPU. Under Ray a rank sees one GPU, otherwise all of the machine's."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
