"""Runs step plans on the model: rank 0 draws tokens and leads, the other ranks follow its plans."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from roost_worker.config import WorkerConfig
from roost_worker.engine.plan import RunnerInfo, Sampled, StepPlan, StepResult
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.batch import build_batch
from roost_worker.model.config import DecoderConfig, read_config
from roost_worker.model.kv_cache import KvCache, KvShape, automatic_memory, blocks_that_fit, bytes_per_block
from roost_worker.model.layers import HeadShare
from roost_worker.model.llama import Llama
from roost_worker.model.loader import WEIGHTS_FILE, Weights
from roost_worker.model.parallel import Group
from roost_worker.model.sampler import Sampler

if TYPE_CHECKING:
    from roost_worker.grammar import GrammarCompiler, GrammarState


class LazyGrammar:
    """The grammar compiler, made when the first grammar comes: an engine without grammars needs no llguidance."""

    def __init__(self, model_dir: Path, eos_token_ids: tuple[int, ...], vocab_size: int) -> None:
        self._arguments = (model_dir / "tokenizer.json", eos_token_ids, vocab_size)
        self._lock = threading.Lock()
        self._made: GrammarCompiler | None = None

    def check(self, grammar: str) -> str:
        """Why a grammar is refused, or an empty string. Callable from any thread."""
        return str(self._compiler().check(grammar))

    def start(self, grammar: str, output: Sequence[int]) -> "GrammarState":
        """A state that has consumed `output`. Raises GrammarError, a ValueError."""
        state = self._compiler().start(grammar)
        state.consume(output)
        return state

    def _compiler(self) -> "GrammarCompiler":
        from roost_worker.grammar import GrammarCompiler

        with self._lock:
            if self._made is None:
                self._made = GrammarCompiler(*self._arguments)
            return self._made


class TorchRunner:
    """One rank's model, KV cache and, on rank 0, sampler. Implements `engine.plan.Runner`; made by `build_runner`."""

    def __init__(
        self,
        model: Llama,
        cache: KvCache,
        backend: AttentionBackend,
        info: RunnerInfo,
        group: Group,
        grammar: LazyGrammar,
    ) -> None:
        self._model = model
        self._cache = cache
        self._backend = backend
        self._info = info
        self._group = group
        self._grammar = grammar
        self._sampler = Sampler(info.vocab_size, cache.tensor.device, grammar.start)

    @property
    def info(self) -> RunnerInfo:
        return self._info

    @property
    def group(self) -> Group:
        return self._group

    def check_grammar(self, grammar: str) -> str:
        """Compiles a grammar, off the engine loop; returns why it is refused, or an empty string."""
        return self._grammar.check(grammar)

    def run(self, plan: StepPlan) -> StepResult:
        """Runs one plan on all ranks and draws its tokens. Raises RuntimeError when a rank is gone."""
        started = time.perf_counter()
        # Sampling is rank 0's alone: prompts for the repetition penalty need not travel.
        self._group.send_plan(StepPlan(plan.chunks, copies=plan.copies))
        self._sampler.free(plan.freed_slots)
        for new in plan.new_slots:
            self._sampler.take(new)
        return StepResult(self._run_and_sample(plan), time.perf_counter() - started)

    @torch.inference_mode()
    def _run_and_sample(self, plan: StepPlan) -> tuple[Sampled, ...]:
        logits = self.forward(plan)
        if logits is None:
            self._await_device()
            return ()
        return self._sampler.sample(logits, [chunk for chunk in plan.chunks if chunk.sample])

    def _await_device(self) -> None:
        """Without a token to read back nothing else waits for a GPU, and the step would seem to take no time."""
        if self._cache.tensor.is_cuda:
            torch.cuda.synchronize(self._cache.tensor.device)

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> torch.Tensor | None:
        """Block copies and the forward pass: logits [sampled rows, vocabulary] in the plan's order, on rank 0."""
        self._cache.copy_blocks(plan.copies)
        if not plan.chunks:
            return None
        batch = build_batch(plan.chunks, self._cache.shape.block_tokens, self._cache.tensor.device)
        return self._model(batch, self._cache, self._backend)

    def close(self) -> None:
        """End the followers and leave the group. A follower that is already gone is no error."""
        if self._group.rank == 0:
            with contextlib.suppress(RuntimeError):  # a broken group: its other ranks end by their own errors
                self._group.send_plan(None)
        self._group.leave()


def follow(runner: TorchRunner) -> None:
    """Main loop of ranks 1 and up: runs rank 0's plans until it closes. Raises RuntimeError when rank 0 is gone."""
    while (plan := runner.group.receive_plan()) is not None:
        runner.forward(plan)
    runner.close()


def build_runner(
    config: WorkerConfig, model_dir: Path, *, rank: int = 0, world: int = 1, init_method: str | None = None
) -> TorchRunner:
    """Loads this rank's share of a prepared model and takes its KV memory.

    Args:
        config: the worker's; of `world` ranks in all, which must be its tensorParallel.
        model_dir: a folder of the model store.
        init_method: where the ranks meet, as torch.distributed understands it; needed if world > 1.
    Raises:
        ModelConfigError: the model or its combination with the config is not supported.
        WeightsError: the weights are missing, broken or of another model.
        RuntimeError: the group did not form.
    """
    decoder = read_config(model_dir)
    decoder.check_tensor_parallel(world)
    decoder.check_context(config.model.context_tokens)
    device = _device(rank)
    _set_threads(world)
    group = Group.join(rank, world, init_method, device)
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    # Weights first: automatic KV memory is a share of what they leave.
    with torch.inference_mode():
        weights = Weights(model_dir / WEIGHTS_FILE, dtype, device)
        model = Llama(weights, decoder, group, config.model.context_tokens)
    shape, info = _plan_memory(config, decoder, group, dtype, device, _eos_token_ids(model_dir, decoder))
    cache = KvCache(shape, dtype, device)
    grammar = LazyGrammar(model_dir, info.eos_token_ids, info.vocab_size)
    return TorchRunner(model, cache, GatheredAttention(shape, dtype, device), info, group, grammar)


def _plan_memory(
    config: WorkerConfig,
    decoder: DecoderConfig,
    group: Group,
    dtype: torch.dtype,
    device: torch.device,
    eos_token_ids: tuple[int, ...],
) -> tuple[KvShape, RunnerInfo]:
    """How many blocks there are, the same on every rank."""
    kv_heads, block_tokens, context = (
        HeadShare.of(decoder, group).kv_heads,
        config.kv.block_tokens,
        config.model.context_tokens,
    )
    memory = config.kv.memory_bytes
    if memory is None:
        memory = group.smallest(automatic_memory(device, group.world)) * group.world
    block_bytes = bytes_per_block(decoder, kv_heads, block_tokens, dtype) * group.world
    num_blocks = blocks_that_fit(memory, block_bytes, block_tokens, context)
    info = RunnerInfo(num_blocks, block_tokens, block_bytes, decoder.vocab_size, context, eos_token_ids, device.type)
    return KvShape(num_blocks, decoder.num_layers, block_tokens, kv_heads, decoder.head_dim), info


def _eos_token_ids(model_dir: Path, decoder: DecoderConfig) -> tuple[int, ...]:
    """The template's end-of-turn ids; a folder without a template has the model's own."""
    path = model_dir / "template.json"
    if not path.exists():
        return decoder.eos_token_ids
    return tuple(json.loads(path.read_text(encoding="utf-8"))["eos_token_ids"])


def _device(rank: int) -> torch.device:
    """The rank's own GPU: of those it sees, which under Ray is one and otherwise the machine's."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _set_threads(world: int) -> None:
    """The ranks of a group share the machine's cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // world))
