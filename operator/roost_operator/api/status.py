"""The status of an `AgentPool`: what the operator reports, in the words of the Kubernetes API conventions."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from roost_operator.api.spec import Fields


class ConditionType(StrEnum):
    """What is said of a pool; `roost_operator.plan.conditions` holds the truth table."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"


class Condition(Fields):
    """One thing that is true, false or not known of the pool."""

    type: str = Field(max_length=316, description="Ready, Available, Progressing or Degraded.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(min_length=1, max_length=1024, description="Why, as one CamelCase word.")
    message: str = Field(default="", max_length=32768, description="Why, for people, with what to do about it.")
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(default=0, ge=0, description="Generation of the pool that this was seen of.")


class SessionCounts(Fields):
    """Where the pool's sessions are. Brought up to date every 15 s at most."""

    hot: int = Field(default=0, ge=0, description="Sessions that a live worker has KV of, on its device.")
    warm: int = Field(
        default=0,
        ge=0,
        description="Sessions with KV in host memory or on disk. No worker of v1alpha1 keeps KV there: always 0.",
    )
    cold: int = Field(default=0, ge=0, description="All other sessions; their next step rebuilds their KV.")


class WorkerCounts(Fields):
    """How many workers there are."""

    desired: int = Field(default=0, ge=0, description="Workers that the pool is to have now.")
    ready: int = Field(default=0, ge=0, description="Workers that take steps.")
    replicas: int = Field(default=0, ge=0, description="Pods of workers, whether they take steps or not.")


class Status(Fields):
    """What the operator saw."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the pool that the status is of.")
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, description="What holds of the pool.")
    active_revision: str = Field(default="", description="Revision of the model that new steps run on.")
    sessions: SessionCounts | None = Field(default=None, description="Where the pool's sessions are.")
    workers: WorkerCounts | None = Field(default=None, description="How many workers there are.")
    deprecations: tuple[Annotated[str, Field(description="A field and what to do about it.")], ...] = Field(
        default=(), max_length=16, description="Deprecated fields that the spec sets, with what to write instead."
    )
    selector: str = Field(default="", description="Label selector of the worker pods, for the scale subresource.")
