"""How a step enters the working set, and what the store answers to its reservation. Frozen values."""

from dataclasses import dataclass

from roost.store.working_set import Admission


@dataclass(frozen=True, slots=True)
class Entry:
    """How a step enters the working set."""

    admission: Admission = Admission.UNCOUNTED
    prefix: str = ""
    """Hash, in hex, of the session's tenant, system text and tools, which equal sessions share; empty: nothing."""
    prefix_tokens: int = 0
    """Estimate of their tokens."""


UNCOUNTED = Entry()


@dataclass(frozen=True, slots=True)
class Reserved:
    """The answer to a reservation."""

    granted: bool
    held: bool = False
    """Whether the step waits because the gate is closed to it, or for steps that wait there, and not for room."""
    live_tokens: int = 0
    """What the worker's live sessions need, when it waits."""
    live_limit: int = 0
    """How much that may be; 0 when the worker has no lease."""
    first_end_ms: int | None = None
    """When the time of some live session is over, in ms from now; None when none is live."""
    counter: int = 0
    """The tenant's counter now (`roost.store.service`)."""

    def __bool__(self) -> bool:
        return self.granted
