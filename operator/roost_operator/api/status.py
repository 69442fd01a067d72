"""The status of an `AgentPool`: what the operator reports, following the Kubernetes API conventions."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from roost_operator.api.fields import Fields


class ConditionType(StrEnum):
    """Types of conditions; `plan.conditions` has their truth table."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    MODEL_LIMITED = "ModelLimited"


class Condition(Fields):
    """A condition of the pool."""

    type: str = Field(max_length=316, description="Ready, Available, Progressing, Degraded or ModelLimited.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(min_length=1, max_length=1024, description="Why, as one CamelCase word.")
    message: str = Field(default="", max_length=32768, description="Why, for people, with what to do about it.")
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(default=0, ge=0, description="Generation of the pool that the condition is about.")


class SessionCounts(Fields):
    """Where the pool's sessions are. Updated every 15 s at most."""

    hot: int = Field(default=0, ge=0, description="Sessions whose KV a live worker has on its device.")
    warm: int = Field(
        default=0,
        ge=0,
        description="Sessions of whose KV a live worker has some in host memory and nothing on its device.",
    )
    cold: int = Field(default=0, ge=0, description="All other sessions; their next step rebuilds their KV.")


class WorkerCounts(Fields):
    """How many workers there are."""

    desired: int = Field(default=0, ge=0, description="Workers that the pool is to have now.")
    ready: int = Field(default=0, ge=0, description="Workers that take steps.")
    replicas: int = Field(default=0, ge=0, description="Worker pods, whether they take steps or not.")


class PoolStatus(Fields):
    """What the operator observed."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the pool that the status is about.")
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, description="Conditions of the pool.")
    active_revision: str = Field(default="", description="Revision of the model that new steps run on.")
    sessions: SessionCounts | None = Field(default=None, description="Where the pool's sessions are.")
    workers: WorkerCounts | None = Field(default=None, description="How many workers there are.")
    deprecations: tuple[Annotated[str, Field(description="A field and what to do about it.")], ...] = Field(
        default=(), max_length=16, description="Deprecated fields that the spec sets, with what to write instead."
    )
    selector: str = Field(default="", description="Label selector of the worker pods, for the scale subresource.")
