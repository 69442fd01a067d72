"""Why a step took the time that it took: what it waited for, where it ran, why tokens were rebuilt. Frozen values.
Pure."""

from dataclasses import dataclass
from enum import StrEnum


class WaitReason(StrEnum):
    """Why a step had to wait for a worker."""

    LINE = "line"
    """Others of its line waited already."""
    NO_ROOM = "no_room"
    """No worker had room for it."""
    NO_WORKER = "no_worker"
    """No worker took steps."""
    NO_REVISION = "no_revision"
    """Workers took steps, but none of the model's revision."""
    WORKING_SET = "working_set"
    """The sessions that were live needed as much of the workers' KV as they may, and its session was not live."""


class Place(StrEnum):
    """Where a step ran, seen from its session's home: the worker that committed its last step."""

    NO_HOME = "no_home"
    """The session had no home: it was its first step, or the first since it was evicted or got another model."""
    HOME = "home"
    HOME_FULL = "home_full"
    """Elsewhere: to wait at home would have cost more."""
    HOME_DRAINS = "home_drains"
    HOME_GONE = "home_gone"
    HOME_FAILED = "home_failed"
    """Elsewhere: the home had failed on the step, or could not be reached."""
    HOME_EMPTY = "home_empty"
    """Elsewhere: the home had nothing of the session cached any more."""


class RebuildCause(StrEnum):
    """Why tokens of a log were computed again."""

    EVICTED_FOR_ROOM = "evicted_for_room"
    """The worker had evicted them to make room."""
    EVICTED_ON_REQUEST = "evicted_on_request"
    """They had been evicted with `Session.evict`."""
    DROPPED = "dropped"
    """The home had dropped them; why is not known."""
    MOVED = "moved"
    """The step ran at another worker than the session's home."""
    WORKER_LOST = "worker_lost"
    """The worker that had them was gone."""
    WORKER_FAILED = "worker_failed"
    """A worker failed during the step."""
    MODEL_CHANGED = "model_changed"
    """The session moved to another revision of the model."""
    THINKING_DROPPED = "thinking_dropped"
    """Thinking of earlier turns left the log."""
    FORKED = "forked"
    """The session was branched off another one, whose cache the worker did not have."""
    BLOCK_END = "block_end"
    """They are less than a block: the end of a sequence is computed again where its last block is shared."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for a worker. All but `seconds` is as it stood when the wait began."""

    seconds: float = 0.0
    continuations: int = 0
    """Continuations of sessions that were to be served before the step, in its line of this gateway."""
    new_sessions: int = 0
    """First steps of sessions that were to be served before it."""
    reason: WaitReason | None = None
    """None when the gateway is newer than this SDK and knows another reason."""


@dataclass(frozen=True, slots=True)
class KvEviction:
    """What a worker remembers of KV of a session that it dropped."""

    tokens: int
    seconds_ago: float
    """How long before the step; the last time, if KV was dropped more than once."""
    for_session: str = ""
    """Session for whose growth it was. Empty when that is another tenant's, or no session, or when it was asked for."""
    policy: str = ""
    """Retention policy that chose the session; empty when the eviction was asked for."""
    requested: bool = False
    """Whether `Session.evict` asked for it."""
    rebuild_seconds: float = 0.0
    """How long it takes to compute the tokens again, by the worker's rate of prefill when it dropped them; 0 when it
    was asked for, or the rate is not known."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a step took the time that it took. `line` says it in words."""

    wait: Wait | None = None
    """None when it did not wait."""
    worker: str = ""
    """Worker that ran the step."""
    place: Place | None = None
    log_tokens: int = 0
    """Tokens of the log before the step."""
    cached_tokens: int = 0
    """Tokens of the context, log and prompt, found in the worker's cache."""
    rebuilt_tokens: int = 0
    """Tokens of the log that were computed again."""
    cause: RebuildCause | None = None
    """None when no tokens were computed again."""
    eviction: KvEviction | None = None
    """The worker's eviction, when it is the cause."""
    ahead_tokens: int = 0
    """Of the cached tokens, those that had been evicted and were rebuilt ahead of the step."""

    @property
    def line(self) -> str:
        """The facts as one line of ASCII, such as `waited 1.2 s behind 3 continuations; 4,096 of 20,480 tokens rebuilt:
        evicted 41 s ago for another session's growth (LRUSparingHeld, 0.5 s to rebuild)`."""
        return "; ".join(
            part for part in (_waited(self.wait), _ran(self), _rebuilt(self), _rebuilt_ahead(self)) if part
        )


WAITED_FOR = {
    WaitReason.LINE: "",
    WaitReason.NO_ROOM: "no worker had room",
    WaitReason.NO_WORKER: "no worker took steps",
    WaitReason.NO_REVISION: "no worker served its model's revision",
    WaitReason.WORKING_SET: "the working set was full",
}
_MOVED = {
    Place.HOME_FULL: "its home was full",
    Place.HOME_DRAINS: "its home drained",
    Place.HOME_GONE: "its home was gone",
    Place.HOME_FAILED: "its home had failed",
    Place.HOME_EMPTY: "its home had nothing of it cached",
}
_CAUSES = {
    RebuildCause.EVICTED_FOR_ROOM: "evicted to make room",
    RebuildCause.EVICTED_ON_REQUEST: "evicted on request",
    RebuildCause.DROPPED: "dropped by its home before",
    RebuildCause.MOVED: "not cached at the worker that it moved to",
    RebuildCause.WORKER_LOST: "the worker that had them was gone",
    RebuildCause.WORKER_FAILED: "a worker failed during the step",
    RebuildCause.MODEL_CHANGED: "the model changed",
    RebuildCause.THINKING_DROPPED: "thinking of earlier turns left the log",
    RebuildCause.FORKED: "branched off a session whose cache was not there",
    RebuildCause.BLOCK_END: "the end of a shared block, computed again by design",
}


def _waited(wait: Wait | None) -> str:
    if wait is None:
        return ""
    counts = (_count(wait.continuations, "continuation"), _count(wait.new_sessions, "new session"))
    ahead = " and ".join(filter(None, counts))
    reason = WAITED_FOR[wait.reason] if wait.reason else ""
    waited = f"waited {_seconds(wait.seconds)}" + (f" behind {ahead}" if ahead else "")
    return waited + (f": {reason}" if reason else "")


def _ran(why: Why) -> str:
    moved = _MOVED.get(why.place) if why.place else None
    return f"ran at {why.worker}, since {moved}" if moved else ""


def _rebuilt(why: Why) -> str:
    if not why.log_tokens:
        cached = f", {why.cached_tokens:,} tokens of its prompt cached" if why.cached_tokens else ""
        return f"the session's first step{cached}"
    if not why.rebuilt_tokens:
        return f"none of {why.log_tokens:,} tokens rebuilt"
    cause = _cause(why)
    return f"{why.rebuilt_tokens:,} of {why.log_tokens:,} tokens rebuilt" + (f": {cause}" if cause else "")


def _rebuilt_ahead(why: Why) -> str:
    return f"{why.ahead_tokens:,} had been rebuilt ahead of it" if why.ahead_tokens else ""


def _cause(why: Why) -> str:
    eviction = why.eviction
    if eviction is None or why.cause not in (RebuildCause.EVICTED_FOR_ROOM, RebuildCause.EVICTED_ON_REQUEST):
        return _CAUSES.get(why.cause, "") if why.cause else ""
    ago = f"{_seconds(eviction.seconds_ago)} ago"
    if why.cause is RebuildCause.EVICTED_ON_REQUEST:
        return f"evicted on request {ago}"
    whose = f"session {eviction.for_session}" if eviction.for_session else "another session"
    cost = f"{_seconds(eviction.rebuild_seconds)} to rebuild" if eviction.rebuild_seconds >= 0.05 else ""
    choice = ", ".join(filter(None, (eviction.policy, cost)))
    return f"evicted {ago} for {whose}'s growth" + (f" ({choice})" if choice else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if number else ""


def _seconds(seconds: float) -> str:
    """A time to two digits or so."""
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
