"""Branches sessions off others: finds the place in the other's log, and writes the fork."""

from dataclasses import replace

from roost.contract.heads import Head
from roost.contract.names import new_session_id, pool_of
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest
from roost.store.fork_records import CommitPoint, NewFork
from roost.store.generations import steps_now
from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost.store.refusals import refused


async def fork_session(store: SessionStore, request: ForkRequest, tenant: str) -> Descriptor:
    """Writes the session that a checked request asks for, or returns the one that the same request wrote before, also
    when the session to branch off is gone by now.

    Raises Refused: SESSION_NOT_FOUND, SESSION_ROLLED_BACK, HEAD_MISMATCH, STORE_FULL; StoreAwayError.
    """
    pool = pool_of(request.session_id) or ""
    new = NewFork(
        session_id=new_session_id(pool),
        other=request.session_id,
        tenant=tenant,
        task=request.task,
        labels=dict(request.labels),
        request_id=request.request_id,
    )
    try:
        try:
            return await _fork(store, new, request.at)
        except Refused as error:
            if error.reason is not Reason.HEAD_MISMATCH:
                raise
            return await _fork(store, new, request.at)  # the session has migrated since its log was read
    except Refused:
        earlier = await store.opened(pool, tenant, request.request_id) if request.request_id else None
        if earlier is None:
            raise
        return earlier


async def _fork(store: SessionStore, new: NewFork, at: Head | None) -> Descriptor:
    if at is not None:
        new = replace(new, point=await commit_point(store, await store.get(new.other, new.tenant), at))
    return await store.fork(new)


async def commit_point(store: SessionStore, session: Descriptor, head: Head) -> CommitPoint:
    """Returns the place in the session's current log that `head` names. Reads a step of the log per halving of it.

    Steps keep their number when a session migrates, so a head of an older generation stands for the log after as many
    steps, less those that were folded.

    Raises Refused: SESSION_ROLLED_BACK when no step of the log ends there, as where the steps before were folded.
    """
    generation = head.generation or session.generation
    if head == Head():
        return CommitPoint(Head(generation=session.generation), 0)
    low, high = 1, session.steps + sum(fold.steps - 1 for fold in session.folds if fold.generation > generation)
    while low <= high:
        steps = (low + high) // 2
        end = await _end(store, session, generation, steps)
        if end is not None and end == head:
            now = steps_now(session.folds, generation, steps)
            current = await _end(store, session, session.generation, now) if now is not None else None
            if now is not None and current is not None:
                return CommitPoint(replace(current, generation=session.generation), now)
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
