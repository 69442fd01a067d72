"""How an attempt is begun in the store in memory: what `begin.lua` does once nothing refuses it. Pure."""

from dataclasses import replace

from roost.contract.heads import AttemptRef
from roost.store.memory_pool import Claim, MemoryPool
from roost.store.memory_session import MemorySession, Work
from roost.store.records import BeginRequest


def take_attempt(
    pool: MemoryPool,
    session: MemorySession,
    request: BeginRequest,
    former: Work | None,
    owner: str,
    now: int,
    *,
    is_grace: bool,
) -> Work:
    """Makes a new attempt the live one. It reserves where `former`, the attempt of the same step, was sent, or at the
    `owner`; when both are full it waits for the first of them that lives."""
    record, nonce = session.record, request.nonce
    before = session.attempt.ref.nonce if session.attempt else b""  # what it has reserved is given back, of any step
    enqueued_ms = pool.enqueued_ms(before, now) if former else now
    rank = pool.rank(request.priority, enqueued_ms, nonce)
    tokens, reserved, line = record.head.length + request.new_tokens, "", None
    for worker in dict.fromkeys([former.worker if former else "", owner]):
        if reserved or not pool.is_alive(worker, now):
            continue
        inherited = pool.tokens_of(worker, before, now) if former and worker == former.worker else 0
        may_reserve = inherited or not pool.must_wait(worker, rank, {nonce, before}, now)
        fits = pool.has_room(worker, tokens, before, now)
        if inherited and (inherited >= tokens or not fits):
            reserved, tokens = worker, inherited
        elif may_reserve and fits:
            reserved = worker
        elif line is None:
            line = pool.leases[worker][0].model_revision
    pool.drop_claims(session.attempt)
    pool.purge(now, waits=not reserved and line is not None)
    expiry_ms = now + request.lease_ms
    ref, fenced = AttemptRef(record.epoch + 1, nonce), replace(former, fenced=None) if former else None
    seed = former.seed if former else request.seed
    work = Work(ref, request.step_id, request.digest, seed, reserved, tokens, expiry_ms, fenced, is_grace=is_grace)
    session.attempt = work
    if reserved:
        pool.claims[reserved, nonce] = Claim(tokens, expiry_ms)
    elif line is not None:
        deadline_ms = request.deadline_ms and now + request.deadline_ms
        pool.enter_line(line, nonce, request.priority, enqueued_ms, deadline_ms, expiry_ms)
    session.change(epoch=ref.epoch, hold=None)
    session.touch(now, 2 * request.lease_ms)
    return work
