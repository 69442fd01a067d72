"""Detached steps: steps that run without a client, and the log of their events, which any gateway may read.

A step has a record as soon as it is detached. The gateway that runs it holds a lease, logs the events, and says in the
end what became of the step; when its lease runs out, another gateway takes the step over and continues the log.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from roost.contract.events import Event
from roost.contract.reasons import Reason
from roost.contract.steps import StepName, StepRequest

EVENTS_KEPT_MS = 600_000
"""How long the events of a detached step are kept after its end."""


class DetachedState(StrEnum):
    """How far a detached step has come."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    """A worker has begun it."""
    COMMITTED = "committed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self not in (DetachedState.QUEUED, DetachedState.IN_PROGRESS)

    @property
    def makes_room(self) -> bool:
        """Whether the step has come to nothing, so that a new run of it may take the record's place."""
        return self in (DetachedState.FAILED, DetachedState.CANCELLED)


@dataclass(frozen=True, slots=True)
class DetachedStep:
    """What a gateway needs to take the step over. It is written once."""

    request: StepRequest
    tenant: str
    context: Mapping[str, Any]
    """The gateway's own, a JSON object."""
    ttl_ms: int
    """How long the record is kept after it was last written."""

    @property
    def name(self) -> StepName:
        return StepName(self.request.session_id, self.request.step_id)


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a detached step has failed."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class DetachedProgress:
    """A detached step as it stands."""

    state: DetachedState
    first_runner: bytes
    """Nonce of the run that began it. Another one shows that the step came to nothing and was begun once more."""
    runner: bytes
    """Nonce of the gateway's run that may log."""
    is_run: bool
    """Whether the lease of that run is in force."""
    is_cancelled: bool
    """Whether its client has asked for its end."""
    logged: int
    """Events logged so far, also those that are not kept any more."""
    events: tuple[Event, ...]
    """The events from the place asked for."""
    failure: StepFailure | None = None
    """Set when it has failed."""


@dataclass(frozen=True, slots=True)
class DetachedReport:
    """What a run tells of its step."""

    name: StepName
    runner: bytes
    state: DetachedState
    first: int
    """Place of the first of `events` in the log."""
    events: Sequence[Event]
    lease_ms: int
    """0 gives the lease back, so that another gateway may take the step over at once."""
    ttl_ms: int
    failure: StepFailure | None = None


class DetachedSteps(Protocol):
    """The detached steps of all pools. Each call is one round trip and may be repeated; all raise StoreAwayError."""

    async def begin(self, step: DetachedStep, runner: bytes, lease_ms: int) -> bool:
        """Writes the record of a step that `runner` runs, in place of one that has failed or was cancelled. False when
        there is a record already of a step that runs or is committed. Refuses: STORE_FULL."""
        ...

    async def context(self, name: StepName, tenant: str) -> Mapping[str, Any] | None:
        """The step's context, or None when the tenant has no such detached step, or not any more."""
        ...

    async def find(self, name: StepName, tenant: str) -> DetachedStep | None:
        """All that is needed to take the step over, or None as for `context`."""
        ...

    async def read(self, name: StepName, tenant: str, first: int | None = None) -> DetachedProgress | None:
        """How the step stands, with its events from place `first` on; None: without events. None when the tenant has no
        such detached step, or not any more."""
        ...

    async def report(self, report: DetachedReport) -> bool:
        """Logs events that are not in the log yet, renews the lease, and wakes those who wait for news. Returns whether
        the client has asked for the step's end. Refuses: ATTEMPT_FENCED when another run has the step, or the record is
        gone."""
        ...

    async def take_over(self, name: StepName, former: bytes, runner: bytes, lease_ms: int) -> bool:
        """Gives the step to `runner` if it is not over and the lease of `former`, which ran it last, is not in force.
        Returns whether it did."""
        ...

    async def cancel(self, name: StepName, tenant: str) -> None:
        """Asks the step's run, or the next one, to end it. Does nothing when the step is over or unknown."""
        ...

    async def forget(self, name: StepName) -> None:
        """Erases record and events."""
        ...

    def news(self, name: StepName) -> AsyncGenerator[object, None]:
        """Yields when the step has been reported on, at most a second late; may yield without a report."""
        ...
