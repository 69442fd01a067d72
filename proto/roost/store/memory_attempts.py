"""Attempts in the store in memory: what `begin.lua` does once nothing refuses it, and `reserve.lua`. Pure."""

from dataclasses import dataclass, replace

from roost.contract.heads import AttemptRef
from roost.store.entry import Reserved
from roost.store.memory_pool import Claim, MemoryPool, line_of
from roost.store.memory_session import MemorySession, Work
from roost.store.records import BeginRequest, Reservation
from roost.store.service import TenantService, weighted_service
from roost.store.working_set import IDLE_MS, Admission


@dataclass(frozen=True, slots=True)
class Computed:
    """What an attempt has had of its worker."""

    context_tokens: int
    """Log and prompt."""
    output_tokens: int
    is_whole: bool = False
    """Whether the output was committed."""


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
    `owner`; when both are full, or their gates closed to it, it waits for the first of them that lives. Without either
    a session that has no log reserves at the request's `first_worker`, or waits for none."""
    record, nonce = session.record, request.nonce
    before = session.attempt.ref.nonce if session.attempt else b""  # what it has reserved is given back, of any step
    enqueued_ms = pool.enqueued_ms(before, now) if former else now
    service = pool.services.join(record.tenant, now)
    place = pool.place(service.counter, request.priority, enqueued_ms, nonce, now)
    tokens, reserved, line = record.head.length + request.new_tokens, "", None
    entry, whole = request.entry, tokens
    needed = session.footprint(tokens, entry.prefix, entry.prefix_tokens)
    candidates = [worker for worker in dict.fromkeys([former.worker if former else "", owner]) if worker]
    waits_for_none = not candidates
    if waits_for_none and not record.steps and request.first_worker:
        candidates = [request.first_worker]
    for worker in candidates:
        if reserved or not pool.is_alive(worker, now):
            continue
        inherited = pool.tokens_of(worker, before, now) if former and worker == former.worker else 0
        may_reserve = inherited or not pool.must_wait(worker, place, {nonce, before}, now, held=gated)
        fits = pool.has_room(worker, tokens, before, now) and bool(
            inherited or not gated or pool.admits(worker, needed)
        )
        if inherited and (inherited >= tokens or not fits):
            reserved, tokens = worker, inherited
        elif may_reserve and fits:
            reserved = worker
        elif line is None and not waits_for_none:
            line = line_of(pool.leases[worker][0].model_revision, held=gated)
    pool.drop_claims(session.attempt)
    pool.purge(now, waits=not reserved and line is not None)
    expiry_ms = now + request.lease_ms
    ref, fenced = AttemptRef(record.epoch + 1, nonce), replace(former, fenced=None) if former else None
    seed = former.seed if former else request.seed
    work = Work(ref, request.step_id, request.digest, seed, reserved, tokens, expiry_ms, fenced, is_grace=is_grace)
    work.demand, work.charged = request.demand, former.charged if former else None
    if session.attempt and not session.attempt.worker:
        service.stop_waiting()
    if reserved:
        charge(pool, session, work, service)
    else:
        service.wait(expiry_ms)
    pool.services.save(record.tenant, service, now)
    session.attempt = work
    pool.working_set.renew(session.short_name, now + IDLE_MS)
    if reserved:
        again = former is not None and reserved == former.worker
        pool.claim(session, nonce, Claim(tokens, expiry_ms), reserved, entry, whole, now, again=again)
    elif line is not None:
        deadline_ms = request.deadline_ms and now + request.deadline_ms
        pool.enter_line(line, nonce, record.tenant, request.priority, enqueued_ms, deadline_ms, expiry_ms)
    session.change(epoch=ref.epoch, hold=None)
    session.touch(now, 2 * request.lease_ms)
    return work


def reserve_at(pool: MemoryPool, session: MemorySession, reservation: Reservation, work: Work, now: int) -> Reserved:
    """Reserves at a worker for a live attempt, or gives it a place in a line of the revision that it needs."""
    worker, nonce, tokens, entry = reservation.worker_id, work.ref.nonce, reservation.tokens, reservation.entry
    pool.working_set.expire(now)
    enqueued_ms = min(pool.enqueued_ms(nonce, now), now - reservation.waited_ms)
    tenant, waits = session.record.tenant, not work.worker
    service = pool.services.join(tenant, now) if waits else pool.services.find(tenant, now)
    place = pool.place(service.counter, reservation.priority, enqueued_ms, nonce, now)
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
        may_reserve = own_tokens > 0 or not pool.must_wait(worker, place, {nonce}, now, held=gated)
        granted = fits and is_open and may_reserve
    pool.purge(now, waits=not granted)
    expiry_ms = now + reservation.lease_ms
    if waits:
        service.waiting, service.until_ms = max(1, service.waiting), max(service.until_ms, expiry_ms)
    if not granted:
        pool.services.save(tenant, service, now)
        line, deadline_ms = line_of(reservation.revision, held=gated), reservation.deadline_ms
        until_ms = deadline_ms and now + deadline_ms
        pool.enter_line(line, nonce, tenant, reservation.priority, enqueued_ms, until_ms, expiry_ms)
        return replace(pool.waits(worker, now, held=held), counter=service.counter)
    pool.drop_claims(work)
    work.worker, work.tokens = worker, max(tokens, own_tokens)
    pool.claim(session, nonce, Claim(work.tokens, expiry_ms), worker, entry, tokens, now, again=own_tokens > 0)
    if waits:
        service.stop_waiting()
    charge(pool, session, work, service)
    pool.services.save(tenant, service, now)
    return Reserved(True, counter=service.counter)


def charge(pool: MemoryPool, session: MemorySession, work: Work, service: TenantService) -> None:
    """Charges the session's tenant for an attempt that reserves, unless that was done before."""
    if work.charged is None:
        work.charged = pool.services.charge(service, work.demand, session.record.head.length)


def end_attempt(pool: MemoryPool, session: MemorySession, now: int, done: Computed | None = None) -> None:
    """Ends the live attempt, if there is one. `done` is None when nobody knows what was computed."""
    pool.drop_claims(session.attempt)
    work, tenant, session.attempt = session.attempt, session.record.tenant, None
    if work is None:
        return
    service = pool.services.tenants.get(tenant) or TenantService()
    if not work.worker:
        service.stop_waiting()
    if done is not None:
        actual = weighted_service(done.context_tokens, done.output_tokens, work.demand.weight)
        service.correct(work.charged or 0, actual)
        if done.is_whole:
            service.learn(done.output_tokens)
    pool.services.save(tenant, service, now)


def renew_attempt(pool: MemoryPool, session: MemorySession | None, ref: AttemptRef, lease_ms: int, now: int) -> bool:
    """Renews an attempt's lease, with what it holds. Returns False when it is not live."""
    if session is None or session.attempt is None or session.attempt.ref != ref:
        return False
    work, nonce = session.attempt, ref.nonce
    work.expiry_ms = now + lease_ms
    pool.working_set.renew(session.short_name, now + IDLE_MS)
    if nonce in pool.waiters:
        pool.waiters[nonce].expiry_ms = work.expiry_ms
    service = pool.services.tenants.get(session.record.tenant)
    if service and not work.worker and service.waiting:
        service.until_ms = max(service.until_ms, work.expiry_ms)
    if work.worker:
        pool.claims[work.worker, nonce] = Claim(work.tokens, work.expiry_ms)
    if session.record.expires_ms - now < session.ttl_ms:
        session.touch(now, 2 * lease_ms)
    return True


def release_at(pool: MemoryPool, session: MemorySession | None, reservation: Reservation, now: int) -> None:
    """Gives back a reservation and a place among the waiters; the attempt stays live."""
    worker, nonce = reservation.worker_id, reservation.ref.nonce
    pool.waiters.pop(nonce, None)
    pool.claims.pop((worker, nonce), None)
    if session and session.attempt and (session.attempt.ref.nonce, session.attempt.worker) == (nonce, worker):
        if worker:
            pool.rest(session, now)
            service = pool.services.join(session.record.tenant, now)
            service.wait(session.attempt.expiry_ms)
            pool.services.save(session.record.tenant, service, now)
        session.attempt.worker = ""
