"""Why a step took the time that it took, from what its attempt went through and what its worker reports. Pure."""

from dataclasses import replace

from roost.contract.why import Place, RebuildCause, Why
from roost.store.records import Descriptor
from roost.store.rules import rebuild_cause
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.output import KvReport

_BY_PLACE = {
    Place.HOME_FULL: RebuildCause.MOVED,
    Place.HOME_DRAINS: RebuildCause.MOVED,
    Place.HOME_GONE: RebuildCause.WORKER_LOST,
    Place.HOME_FAILED: RebuildCause.WORKER_LOST,
}
_RENDERED_AGAIN = (RebuildCause.MODEL_CHANGED, RebuildCause.THINKING_DROPPED)


def explain(attempt: StepAttempt, worker_id: str, cached_tokens: int, report: KvReport) -> Why:
    """The facts of an attempt at a worker that has, or expects to have, so many tokens of the context cached."""
    log_tokens = attempt.descriptor.head.length
    rebuilt = rebuilt_tokens(log_tokens, cached_tokens)
    if attempt.place is Place.HOME_EMPTY:
        report = replace(report, eviction=attempt.home_eviction)
    cause = _cause(attempt, rebuilt, report) if rebuilt else None
    is_evicted = cause in (RebuildCause.EVICTED_FOR_ROOM, RebuildCause.EVICTED_ON_REQUEST)
    wait = attempt.wait
    return Why(
        wait=None if wait is None else replace(wait, seconds=attempt.clock.queue_seconds),
        worker=worker_id,
        place=attempt.place,
        log_tokens=log_tokens,
        cached_tokens=cached_tokens,
        rebuilt_tokens=rebuilt,
        cause=cause,
        eviction=report.eviction if is_evicted else None,
        ahead_tokens=report.ahead_tokens,
    )


def rebuilt_tokens(log_tokens: int, cached_tokens: int) -> int:
    """Tokens of the log that were computed again. The last token of a log is always the next step's to compute."""
    return max(0, log_tokens - 1 - cached_tokens)


def _cause(attempt: StepAttempt, rebuilt: int, report: KvReport) -> RebuildCause:
    if attempt.failovers:
        return RebuildCause.WORKER_FAILED
    return cause_of(attempt.descriptor, attempt.place, rebuilt, report)


def cause_of(session: Descriptor, place: Place, rebuilt: int, report: KvReport) -> RebuildCause:
    """Why `rebuilt` tokens of a session's log were not cached where its step ran.

    The report is that of the home where the step ran elsewhere since the home had nothing. What another worker
    remembers of the session does not count: it may be older than the last move.
    """
    recorded, eviction = rebuild_cause(session), report.eviction
    if recorded in _RENDERED_AGAIN:
        return recorded
    if eviction is not None and place in (Place.HOME, Place.HOME_EMPTY, Place.NO_HOME):
        return RebuildCause.EVICTED_ON_REQUEST if eviction.requested else RebuildCause.EVICTED_FOR_ROOM
    if rebuilt < report.block_tokens:
        return RebuildCause.BLOCK_END
    return recorded or _BY_PLACE.get(place, RebuildCause.DROPPED)
