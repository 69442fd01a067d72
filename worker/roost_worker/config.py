"""A worker's configuration. Frozen, and checked on construction; every error names the field and the fix."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from roost_worker.engine.policies import DEFAULT_POLICY, POLICIES

BLOCK_TOKENS = (16, 32, 64, 128)
DTYPES = ("bfloat16", "float32", "float64")
Dtype = Literal["bfloat16", "float32", "float64"]
DETERMINISMS = ("relaxed", "strict")
Determinism = Literal["relaxed", "strict"]
QUANTIZATIONS = ("none", "int8")
Quantization = Literal["none", "int8"]
KV_DTYPES = ("auto", "int8")
KvDtype = Literal["auto", "int8"]
KERNELS = ("auto", "torch", "triton")
KernelChoice = Literal["auto", "torch", "triton"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, in which form."""

    name: str
    source: str
    """`hf://org/name`, `file:///path`, `pypi://distribution/path/in/wheel` or `dummy://config`."""
    dtype: Dtype = "bfloat16"
    tensor_parallel: int = 1
    context_tokens: int = 2048
    """Longest log of a session, in tokens."""
    determinism: Determinism = "relaxed"
    """`strict`: what is computed of a sequence does not depend, to the bit, on how its computation was cut, shared or
    batched."""
    quantization: Quantization = "none"
    """`int8`: the layers' weights and the head's are rounded to int8, with a scale for each output."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is unknown; use one of {', '.join(DTYPES)}")
        if self.determinism not in DETERMINISMS:
            raise ValueError(f"determinism: {self.determinism!r} is unknown; use one of {', '.join(DETERMINISMS)}")
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization: {self.quantization!r} is unknown; use one of {', '.join(QUANTIZATIONS)}")
        if self.tensor_parallel < 1:
            raise ValueError(f"tensorParallel: {self.tensor_parallel} must be at least 1")
        if self.context_tokens < 64:
            raise ValueError(f"contextTokens: {self.context_tokens} must be at least 64")


@dataclass(frozen=True, slots=True)
class KvConfig:
    """How KV memory is divided, and what is evicted first."""

    block_tokens: int = 32
    memory_bytes: int | None = None
    """Bytes for the KV blocks of all ranks. None: 85 % of what is free on the GPUs; on CPU a quarter of free memory,
    at most 4 GiB."""
    eviction_policy: str = DEFAULT_POLICY
    """Name of the policy that decides what is evicted first (in `roost_worker.engine.policies.POLICIES`)."""
    host_memory_bytes: int = 0
    """Bytes of host memory, for all ranks, for copies of blocks that leave the KV memory; 0 keeps none."""
    dtype: KvDtype = "auto"
    """`auto`: keys and values are kept in the model's dtype. `int8`: they are rounded to int8, with a scale for each
    key and each value of a head."""

    def __post_init__(self) -> None:
        if self.block_tokens not in BLOCK_TOKENS:
            raise ValueError(f"kvCache.blockTokens: {self.block_tokens} must be one of {BLOCK_TOKENS}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ValueError(f"kvCache.memory: {self.memory_bytes} must be positive, or auto")
        if self.host_memory_bytes < 0:
            raise ValueError(f"kvCache.hostMemory: {self.host_memory_bytes} must be 0, for none, or positive")
        if self.dtype not in KV_DTYPES:
            raise ValueError(f"kvCache.dtype: {self.dtype!r} is unknown; use one of {', '.join(KV_DTYPES)}")
        if self.eviction_policy not in POLICIES:
            raise ValueError(
                f"kvCache.evictionPolicy: {self.eviction_policy!r} is unknown; use one of {', '.join(POLICIES)}"
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much runs at once."""

    max_running: int = 32
    max_batch_tokens: int = 256
    """Most tokens computed in one batch."""
    step_goal_seconds: float = 0.2
    """How long a batch that decodes may take before less prefill goes into it; 0 for no goal."""
    max_forced_tokens: int = 64
    """Most tokens that follow a drawn one without a draw, because the grammar allows no others; 0 draws each token."""
    max_draft_tokens: int = 16
    """Most tokens that are guessed at once from the context of a sequence whose request allows it; 0 guesses none."""

    kernels: KernelChoice = "auto"
    """What computes the model: `auto` on CPUs kernels that are compiled for the machine, where there is a compiler, and
    on GPUs torch's operators, or with strict determinism as `triton`; `torch` torch's operators everywhere; `triton`,
    on GPUs, Triton's kernels for attention and, with one rank, a CUDA graph for each decode step."""

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise ValueError(f"engine.kernels: {self.kernels!r} is unknown; use one of {', '.join(KERNELS)}")
        if self.max_running < 1:
            raise ValueError(f"engine.maxRunning: {self.max_running} must be at least 1")
        if self.step_goal_seconds < 0:
            raise ValueError(f"engine.stepGoalSeconds: {self.step_goal_seconds} must not be negative; 0 is no goal")
        if self.max_forced_tokens < 0:
            raise ValueError(
                f"engine.max_forced_tokens: {self.max_forced_tokens} must not be negative; 0 draws each token"
            )
        if self.max_draft_tokens < 0:
            raise ValueError(f"engine.max_draft_tokens: {self.max_draft_tokens} must not be negative; 0 guesses none")
        if self.max_batch_tokens < self.max_running:
            raise ValueError(
                f"engine.maxBatchTokens: {self.max_batch_tokens} must be at least maxRunning ({self.max_running})"
            )


@dataclass(frozen=True, slots=True)
class GrammarConfig:
    """How the grammars of constrained output are checked before the engine takes them."""

    processes: int = 1
    """How many processes compile grammars, one at a time each."""
    cpu_seconds: float = 2.0
    """Most CPU time that one grammar and its first token mask may take."""
    memory_bytes: int = 256 << 20
    """Most memory that one grammar may take, besides what a process needs for the tokenizer."""
    wait_seconds: float = 5.0
    """Longest that a step waits for the verdict on its grammar."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"grammar.processes: {self.processes} must be at least 1")
        for name in ("cpu_seconds", "memory_bytes", "wait_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"grammar.{name}: {getattr(self, name)} must be positive")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything that one worker needs; picklable, so that it can be a Serve application's argument."""

    pool: str
    model: ModelConfig
    kv: KvConfig = field(default_factory=KvConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    store_url: str = "redis://127.0.0.1:6379"
    pool_secret: str = ""
    """Shared by the pool's gateways and workers; also keys the hashes that separate tenants' caches."""
    host: str = "127.0.0.1"
    port: int = 0
    """gRPC port; 0 takes a free one."""
    metrics_port: int | None = None
    """Prometheus port; 0 takes a free one, None serves no metrics."""
    drain_seconds: float = 30.0
    cache_dir: Path | None = None
    """Folder of converted models; None means `$ROOST_CACHE` or `~/.cache/roost`."""
