"""Branches sessions off others: finds the place in the other's log, and writes the fork."""

from dataclasses import replace

from roost.contract.heads import Head
from roost.contract.names import new_session_id, pool_of
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest
from roost.store.fork_records import CommitPoint, NewFork
from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost.store.refusals import refused


async def fork_session(store: SessionStore, request: ForkRequest, tenant: str) -> Descriptor:
    """Writes the session that a checked request asks for, or returns the one that the same request wrote before, also
    when the session to branch off is gone by now.

    Raises Refused: SESSION_NOT_FOUND, SESSION_ROLLED_BACK, HEAD_MISMATCH, STORE_FULL; StoreAwayError.
    """
    pool = pool_of(request.session_id) or ""
    try:
        point = None
        if request.at is not None:
            point = await commit_point(store, await store.get(request.session_id, tenant), request.at)
        return await store.fork(
            NewFork(
                session_id=new_session_id(pool),
                other=request.session_id,
                tenant=tenant,
                point=point,
                task=request.task,
                labels=dict(request.labels),
                request_id=request.request_id,
            )
        )
    except Refused:
        earlier = await store.opened(pool, tenant, request.request_id) if request.request_id else None
        if earlier is None:
            raise
        return earlier


async def commit_point(store: SessionStore, session: Descriptor, head: Head) -> CommitPoint:
    """Returns the place in the session's current log that `head` names. Reads a step of the log per halving of it.

    Steps keep their number when a session migrates, so a head of an older generation stands for the log after as many
    steps.

    Raises Refused: SESSION_ROLLED_BACK when no step of the log ends there.
    """
    generation = head.generation or session.generation
    if head == Head():
        return CommitPoint(Head(generation=session.generation), 0)
    low, high = 1, session.steps
    while low <= high:
        steps = (low + high) // 2
        end = await _end(store, session, generation, steps)
        if end is not None and end == head:
            current = end if generation == session.generation else await _end(store, session, session.generation, steps)
            if current is not None:
                return CommitPoint(replace(current, generation=session.generation), steps)
            break
        if end is None or end.length >= head.length:
            high = steps - 1
        else:
            low = steps + 1
    raise refused(Reason.SESSION_ROLLED_BACK, head=session.head)


async def _end(store: SessionStore, session: Descriptor, generation: int, steps: int) -> Head | None:
    """The head after so many steps of a generation, or None when it does not have as many."""
    entries = await store.log(session.session_id, generation, steps - 1, 1)
    return entries[0].head if entries else None
