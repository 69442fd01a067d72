"""Attempts in the store in memory: what `begin.lua` does once nothing refuses it, and `reserve.lua`. Pure."""

from dataclasses import replace

from roost.contract.heads import AttemptRef
from roost.store.entry import GRANTED, Reserved
from roost.store.memory_pool import Claim, MemoryPool, line_of
from roost.store.memory_session import MemorySession, Work
from roost.store.records import BeginRequest, Reservation
from roost.store.working_set import IDLE_MS, Admission


def take_attempt(
    pool: MemoryPool,
    session: MemorySession,
    request: BeginRequest,
    former: Work | None,
    owner: str,
    now: int,
    *,
    is_grace: bool,
    gated: bool,
) -> Work:
    """Makes a new attempt the live one. It reserves where `former`, the attempt of the same step, was sent, or at the
    `owner`; when both are full, or their gates closed to it, it waits for the first of them that lives."""
    record, nonce = session.record, request.nonce
    before = session.attempt.ref.nonce if session.attempt else b""  # what it has reserved is given back, of any step
    enqueued_ms = pool.enqueued_ms(before, now) if former else now
    rank = pool.rank(request.priority, enqueued_ms, nonce)
    tokens, reserved, line = record.head.length + request.new_tokens, "", None
    entry, whole = request.entry, tokens
    needed = session.footprint(tokens, entry.prefix, entry.prefix_tokens)
    for worker in dict.fromkeys([former.worker if former else "", owner]):
        if reserved or not pool.is_alive(worker, now):
            continue
        inherited = pool.tokens_of(worker, before, now) if former and worker == former.worker else 0
        may_reserve = inherited or not pool.must_wait(worker, rank, {nonce, before}, now, held=gated)
        fits = pool.has_room(worker, tokens, before, now) and bool(
            inherited or not gated or pool.admits(worker, needed)
        )
        if inherited and (inherited >= tokens or not fits):
            reserved, tokens = worker, inherited
        elif may_reserve and fits:
            reserved = worker
        elif line is None:
            line = line_of(pool.leases[worker][0].model_revision, held=gated)
    pool.drop_claims(session.attempt)
    pool.purge(now, waits=not reserved and line is not None)
    expiry_ms = now + request.lease_ms
    ref, fenced = AttemptRef(record.epoch + 1, nonce), replace(former, fenced=None) if former else None
    seed = former.seed if former else request.seed
    work = Work(ref, request.step_id, request.digest, seed, reserved, tokens, expiry_ms, fenced, is_grace=is_grace)
    session.attempt = work
    pool.working_set.renew(session.short_name, now + IDLE_MS)
    if reserved:
        again = former is not None and reserved == former.worker
        pool.claim(session, nonce, Claim(tokens, expiry_ms), reserved, entry, whole, now, again=again)
    elif line is not None:
        deadline_ms = request.deadline_ms and now + request.deadline_ms
        pool.enter_line(line, nonce, request.priority, enqueued_ms, deadline_ms, expiry_ms)
    session.change(epoch=ref.epoch, hold=None)
    session.touch(now, 2 * request.lease_ms)
    return work


def reserve_at(pool: MemoryPool, session: MemorySession, reservation: Reservation, work: Work, now: int) -> Reserved:
    """Reserves at a worker for a live attempt, or gives it a place in a line of the revision that it needs."""
    worker, nonce, tokens, entry = reservation.worker_id, work.ref.nonce, reservation.tokens, reservation.entry
    pool.working_set.expire(now)
    enqueued_ms = pool.enqueued_ms(nonce, now)
    rank = pool.rank(reservation.priority, enqueued_ms, nonce)
    own_tokens = pool.tokens_of(worker, nonce, now)
    if reservation.lost_tokens and pool.is_live(session) and not work.worker:
        pool.working_set.remove(session.short_name)
        pool.observe(session.record.head.length, reservation.lost_tokens, now)
    gated = entry.admission is Admission.GATED and not pool.is_live(session) and not own_tokens
    granted, held = own_tokens >= tokens, False
    if not granted and pool.is_alive(worker, now):
        fits = pool.has_room(worker, tokens, nonce, now)
        is_open = not gated or pool.admits(worker, session.footprint(tokens, entry.prefix, entry.prefix_tokens))
        held = gated and (fits or not is_open)
        may_reserve = own_tokens > 0 or not pool.must_wait(worker, rank, {nonce}, now, held=gated)
        granted = fits and is_open and may_reserve
    pool.purge(now, waits=not granted)
    expiry_ms = now + reservation.lease_ms
    if not granted:
        line, deadline_ms = line_of(reservation.revision, held=gated), reservation.deadline_ms
        until_ms = deadline_ms and now + deadline_ms
        pool.enter_line(line, nonce, reservation.priority, enqueued_ms, until_ms, expiry_ms)
        return pool.waits(worker, now, held=held)
    pool.drop_claims(work)
    work.worker, work.tokens = worker, max(tokens, own_tokens)
    pool.claim(session, nonce, Claim(work.tokens, expiry_ms), worker, entry, tokens, now, again=own_tokens > 0)
    return GRANTED


def release_at(pool: MemoryPool, session: MemorySession | None, reservation: Reservation, now: int) -> None:
    """Gives back a reservation and a place among the waiters; the attempt stays live."""
    worker, nonce = reservation.worker_id, reservation.ref.nonce
    pool.waiters.pop(nonce, None)
    pool.claims.pop((worker, nonce), None)
    if session and session.attempt and (session.attempt.ref.nonce, session.attempt.worker) == (nonce, worker):
        session.attempt.worker = ""
        if worker:
            pool.rest(session, now)
