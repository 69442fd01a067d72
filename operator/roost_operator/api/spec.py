"""`AgentPool`, v1alpha1: the one definition of a pool, on a laptop and on Kubernetes.

The custom resource's schema is generated from this module (`api.crd`). Fields are integers, strings, booleans, lists
and objects, each with a description; durations are whole seconds and named `...Seconds`.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from roost.contract.nonce_lines import MAX_LINES
from roost.contract.pool_document import DEFAULT_WEIGHT
from roost_operator.api.budget_spec import BudgetsSpec, RepetitionSpec, WindowSpec
from roost_operator.api.fields import Fields, Label, NonceLineText, PoolName, TenantName
from roost_operator.api.model_spec import ModelSpec

GROUP = "roost.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AgentPool"


class OnPoolDeletion(StrEnum):
    """What happens to the pool's sessions when the pool is deleted."""

    KEEP = "Keep"
    PURGE = "Purge"


class OnModelChange(StrEnum):
    """What happens to live sessions when the model's revision changes."""

    MIGRATE = "Migrate"
    REFUSE = "Refuse"


class Upgrade(StrEnum):
    """How workers are replaced when their pods or the model change."""

    NEW_CLUSTER = "NewCluster"
    IN_PLACE = "InPlace"
    NONE = "None"


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


class OnHold(StrEnum):
    """What happens to a step that has been held for as long as it may be."""

    ADMIT = "Admit"
    REFUSE = "Refuse"


class Speculation(StrEnum):
    """How workers guess output, to compute several tokens at once."""

    NEVER = "Never"
    PROMPT_LOOKUP = "PromptLookup"


class WorkingSetAdmission(StrEnum):
    """Whether sessions are admitted by how much KV the sessions need that take turns."""

    ENFORCED = "Enforced"
    OFF = "Off"


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
    on_hold: OnHold = Field(
        default=OnHold.ADMIT,
        description="What happens to a step that was held for admission.maxHoldSeconds. Admit lets its session in, "
        "whose KV then displaces others'; Refuse sends it away, and says when to come back.",
    )
    speculation: Speculation = Field(
        default=Speculation.NEVER,
        description="How workers guess output, to compute several tokens at once; the output is the same. PromptLookup "
        "guesses what followed the same few tokens before, as long as enough guesses are right: for roles that copy "
        "much from their context, such as files and results of tools. Never guesses nothing.",
    )
    budgets: BudgetsSpec = Field(
        default_factory=BudgetsSpec, description="What sessions, tasks and the role may use, and what happens then."
    )
    repetition: RepetitionSpec = Field(
        default_factory=RepetitionSpec, description="When a session's or task's calls count as repeated, and what then."
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
    implicit_ttl_seconds: int = Field(
        default=3600,
        ge=60,
        le=31_536_000,
        alias="implicitTTLSeconds",
        description="The same for sessions that gateways open for HTTP clients; idleTTLSeconds when that is less.",
    )
    nonce_lines: tuple[Annotated[NonceLineText, Field(description="BEGINNING*END of such a line.")], ...] = Field(
        default=(),
        max_length=MAX_LINES,
        description="Lines of system text that differ in each request of an HTTP client, such as the request's id: "
        "such a line begins with what stands before the '*', and ends with what stands after it. They are left out of "
        "the conversation, so that it is recognised, and the model does not see them.",
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
    """Which steps wait, how many, and how long."""

    queue_limit: int = Field(default=256, ge=0, le=1_000_000, description="Most steps that wait in one gateway.")
    queue_timeout_seconds: int = Field(default=30, ge=1, le=3600, description="Longest wait of a step for room.")
    working_set: WorkingSetAdmission = Field(
        default=WorkingSetAdmission.OFF,
        description="Enforced holds steps of sessions that are new, or have paused for long, while the sessions that "
        "take turns already need as much KV as the workers can keep. Off lets every step in that has room.",
    )
    max_hold_seconds: int = Field(
        default=120, ge=1, le=3600, description="Longest time for which such a step is held, whatever its context."
    )


class TenantSpec(Fields):
    """A tenant of the gateways' keys."""

    name: TenantName = Field(description="Name of the tenant, as the gateways' key file has it.")
    weight: int = Field(
        default=DEFAULT_WEIGHT,
        ge=1,
        le=1000,
        description="Of steps of one class that wait, those of a tenant of weight 3 are given three times the service "
        "(KV held over time) of those of a tenant of weight 1.",
    )


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


def _repeated(names: Iterable[str]) -> str | None:
    """A name that is there more than once, or None."""
    return min((name for name, count in Counter(names).items() if count > 1), default=None)


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
    tenant_budget: WindowSpec = Field(
        default_factory=WindowSpec,
        description="What each tenant may use in the pool; then its steps are refused.",
    )
    tenants: tuple[TenantSpec, ...] = Field(
        default=(), max_length=1000, description="Tenants whose weight is not 1, which is that of all others."
    )
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
        if name := _repeated(role.name for role in roles):
            raise ValueError(f"the name {name!r} is used twice; give each role a name of its own")
        return roles

    @field_validator("tenants")
    @classmethod
    def _tenants_differ(cls, tenants: tuple[TenantSpec, ...]) -> tuple[TenantSpec, ...]:
        if name := _repeated(tenant.name for tenant in tenants):
            raise ValueError(f"the tenant {name!r} is named twice; name it once, with its weight")
        return tenants

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
