"""`SessionStore` in memory: the rules of the Redis store, for tests of applications and as the model of that store.

Pure but for its clock. It never goes away, so it has no grace period of its own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from roost.contract import names
from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import WorkerLease
from roost.contract.reasons import Reason
from roost.store import memory_attempts as attempts
from roost.store.budgets import ExtendRequest
from roost.store.conversation_index import ConversationIndex, MemoryConversationIndex
from roost.store.entry import Reserved
from roost.store.fork_records import NewFork
from roost.store.holds import HoldRecord
from roost.store.kept_conversations import KeptConversationStore, MemoryKeptConversations
from roost.store.memory_detached import MemoryDetachedSteps
from roost.store.memory_moves import MemoryMoves
from roost.store.memory_pool import MemoryPool
from roost.store.memory_session import Log, MemorySession, branch_off, new_session
from roost.store.records import (
    AlreadyCommitted,
    Began,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LogEntry,
    MigrateRequest,
    NewSession,
    RenewItem,
    Reservation,
    State,
)
from roost.store.refusals import refused
from roost.store.residency import Residency
from roost.store.rules import AGING_MS, ID_BYTES, check_commit, check_migration
from roost.store.service import NOTHING_DONE, Done
from roost.store.store_health import StoreHealth
from roost.store.wake import Wake
from roost.store.worker_views import WorkerLook, WorkerView
from roost.store.working_set import ADAPT_MS, Admission, pause_ms

_WAKE_SECONDS = 0.5


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryStore:
    """`roost.store.interface.SessionStore` in this process; see there for what each call does.

    `clock` gives the time in ms. `publish` and `publish_cached` do what workers do in Redis.
    """

    def __init__(
        self, clock: Callable[[], int] = now_ms, *, aging_ms: int = AGING_MS, adapt_ms: int = ADAPT_MS
    ) -> None:
        self.clock = clock
        self.conversations: ConversationIndex = MemoryConversationIndex(clock)
        self.kept_conversations: KeptConversationStore = MemoryKeptConversations(clock)
        self.detached = MemoryDetachedSteps(clock)
        self.documents: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, MemorySession] = {}
        self._aging_ms = aging_ms
        self._adapt_ms = adapt_ms
        self._opened: dict[tuple[str, str, str], str] = {}
        """Pool, tenant and request id -> session."""
        self._pools: dict[str, MemoryPool] = {}
        self.moves = MemoryMoves(clock, self.sessions, self.pool)

    def pool(self, name: str) -> MemoryPool:
        """The pool's leases, claims and waiters."""
        return self._pools.setdefault(name, MemoryPool(self._aging_ms, self._adapt_ms))

    def publish(self, pool: str, lease: WorkerLease, ttl_ms: int) -> None:
        """As a worker renews its lease."""
        self.pool(pool).leases[lease.worker_id] = (lease, self.clock() + ttl_ms)

    def publish_cached(self, session_id: str, worker_id: str, tokens: int, warm: int = 0) -> None:
        """As a worker says what it has cached of a session, on its device and in host memory; 0 tokens: nothing."""
        self.pool(names.pool_of(session_id) or "").publish_cached(session_id, worker_id, tokens, warm)

    def grace_seconds(self, pool: str) -> float:
        return 0.0

    async def health(self) -> StoreHealth:
        return StoreHealth(durable=True, problems=(), run_id="memory")

    async def pools(self) -> list[str]:
        return sorted(self.documents)

    async def pool_document(self, pool: str) -> dict[str, Any] | None:
        return self.documents.get(pool)

    async def open(self, new: NewSession) -> Descriptor:
        now, session = self.clock(), new_session(new, self.clock())
        request = (session.record.pool, new.tenant, new.request_id or new.session_id)
        opened = self._living(self._opened.get(request, ""))
        if opened is None:
            opened = self.sessions[new.session_id] = session
            self._opened[request] = new.session_id
        return opened.describe(now)

    async def fork(self, new: NewFork) -> Descriptor:
        now, request = self.clock(), (names.pool_of(new.session_id) or "", new.tenant, new.request_id or new.session_id)
        opened = self._living(self._opened.get(request, ""))
        if opened is None:
            opened = self.sessions[new.session_id] = branch_off(self._find(new.other, new.tenant), new, now)
            self._opened[request] = new.session_id
        return opened.describe(now)

    async def opened(self, pool: str, tenant: str, request_id: str) -> Descriptor | None:
        session = self._living(self._opened.get((pool, tenant, request_id), ""))
        return None if session is None else session.describe(self.clock())

    async def get(self, session_id: str, tenant: str) -> Descriptor:
        return self._find(session_id, tenant).describe(self.clock())

    async def list_sessions(self, pool: str, tenant: str, after: str, count: int) -> list[Descriptor]:
        now = self.clock()
        own = [
            session.describe(now)
            for session_id, session in sorted(self.sessions.items())
            if (session.record.pool, session.record.tenant) == (pool, tenant)
            and session_id > after
            and not session.is_gone(now)
        ]
        return own[:count]

    async def begin(self, request: BeginRequest) -> Began | AlreadyCommitted:
        now, session = self.clock(), self._find(request.session_id, request.tenant)
        record, pool, live = session.record, self.pool(session.record.pool), session.attempt
        committed = session.steps.get(request.step_id)
        former = live if live and live.step_id == request.step_id else None
        if request.digest != (committed or former or request).digest:
            raise session.refusal(Reason.STEP_ID_REUSED)
        if committed is not None:
            return session.already(committed, now)
        migrates, cached = session.migrates_to(request.migrates_to), Residency(record.owner, 0)
        accounts = pool.accounts
        warnings = accounts.warnings(session, request.rules, now)
        if not migrates and pool.is_alive(record.owner, now):
            cached = pool.cached_at(record.owner, record, now)
        pool.working_set.expire(now)
        evicted = not migrates and pool.has_evicted(session, cached.order()[0])
        gated = request.entry.admission is Admission.GATED and (evicted or not pool.is_live(session))
        work = former
        if work is None or work.ref.nonce != request.nonce:  # else it was sent again
            session.check_open()
            session.check_head(request.expected_head, request.expected_generation)
            if former is None:
                session.check_idle(now)
            session.check_quarantine(request.digest, now)
            session.check_limits(request, migrates=migrates)
            if not former:
                accounts.check_repetition(session, request.rules, opens_turn=request.opens_turn)
            is_grace = former.is_grace if former else accounts.is_grace(session, request.rules, now)
            if evicted:
                pool.count_evicted(session, cached.order()[0], now)
            owner = record.owner if cached.cached_tokens else ""
            work = attempts.take_attempt(pool, session, request, former, owner, now, is_grace=is_grace, gated=gated)
            accounts.start_clocks(session, request.rules, now)
        reserved = work.worker if (work.worker, work.ref.nonce) in pool.claims else ""
        return Began(
            ref=work.ref,
            seed=work.seed,
            descriptor=session.describe(now),
            reserved=reserved,
            cached_tokens=cached.cached_tokens,
            warm_tokens=cached.warm_tokens,
            gated=gated and not reserved,
            fenced=work.fenced.describe(now) if work.fenced else None,
            budgets=warnings,
            counter=pool.services.counter(record.tenant),
        )

    async def reserve(self, reservation: Reservation) -> Reserved:
        now, session, pool = self.clock(), self._find(reservation.session_id), self.pool(reservation.pool)
        return attempts.reserve_at(pool, session, reservation, session.check_live(reservation.ref), now)

    async def release(self, reservation: Reservation) -> None:
        session = self.sessions.get(reservation.session_id)
        attempts.release_at(self.pool(reservation.pool), session, reservation, self.clock())

    async def commit(self, request: CommitRequest) -> LogEntry:
        check_commit(request)
        now, session, entry = self.clock(), self._find(request.session_id), request.entry
        committed, pool = session.steps.get(entry.step_id), self.pool(session.record.pool)
        if committed is not None:
            if committed.nonce != request.ref.nonce:
                raise session.refusal(Reason.ATTEMPT_FENCED)
            entry = session.log(committed.generation).entries[committed.index]
            return self._answered(entry, session, request, now)
        work = session.check_live(request.ref, entry.step_id)
        session.check_head(request.previous, session.record.generation)
        if session.record.steps and session.record.model_revision not in ("", entry.model_revision):
            raise session.refusal(Reason.MODEL_REVISION_MISMATCH)
        pool.count_commit(session, request, now)
        entry = session.append(request, work, now)
        pool.accounts.spend(session, request.rules, request.spending, is_grace=work.is_grace, now=now)
        pool.accounts.note_calls(session, request.rules, entry, now)
        context = request.previous.length + entry.prompt_tokens
        attempts.end_attempt(pool, session, now, attempts.Computed(context, entry.output_tokens, is_whole=True))
        session.touch(now)
        return self._answered(entry, session, request, now)

    def _answered(self, entry: LogEntry, session: MemorySession, request: CommitRequest, now: int) -> LogEntry:
        pool = self.pool(session.record.pool)
        answer = pool.accounts.answered(entry, session, request.rules, now)
        return replace(answer, counter=pool.services.counter(session.record.tenant))

    async def extend(self, request: ExtendRequest) -> Descriptor:
        now, session = self.clock(), self._find(request.session_id, request.tenant)
        self.pool(session.record.pool).accounts.extend(session, request, now)
        return session.describe(now)

    async def migrate(self, request: MigrateRequest) -> Descriptor:
        check_migration(request)
        now, session = self.clock(), self._find(request.session_id)
        work = None if session.has_folded(request) else session.check_live(request.ref)
        if work and not work.migrated:
            session.check_head(request.previous, session.record.generation)
            session.begin_generation(request, work, now)
            work.migrated = True
            if request.folded:
                self.pool(session.record.pool).shrink(session, now)
                attempts.end_attempt(self.pool(session.record.pool), session, now)
            session.touch(now, 2 * request.lease_ms)
        return session.describe(now)

    async def abort(self, session_id: str, ref: AttemptRef, done: Done = NOTHING_DONE) -> int | None:
        now, session = self.clock(), self._living(session_id)
        if session is None:
            return None
        pool = self.pool(session.record.pool)
        if session.attempt and session.attempt.ref == ref:
            pool.rest(session, now)
            context = session.record.head.length + done.prompt_tokens
            attempts.end_attempt(pool, session, now, attempts.Computed(context, done.output_tokens))
            session.touch(now)
        return pool.services.counter(session.record.tenant)

    async def quarantine(self, session_id: str, digest: bytes, ms: int) -> None:
        if session := self._living(session_id):
            session.quarantine[digest] = self.clock() + ms

    async def renew(self, pool: str, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        now = self.clock()
        return [
            attempts.renew_attempt(self.pool(pool), self._living(item.session_id), item.ref, lease_ms, now)
            for item in items
        ]

    async def hold(
        self, session_id: str, tenant: str, tool: str, expect_seconds: float, head: Head | None, generation: int = 0
    ) -> Descriptor:
        now, session = self.clock(), self._find(session_id, tenant)
        session.check_open()
        session.check_head(head, generation)
        session.check_idle(now)
        self.pool(session.record.pool).rest(session, now, now + pause_ms(expect_seconds))
        attempts.end_attempt(self.pool(session.record.pool), session, now)
        session.change(hold=HoldRecord(tool, expect_seconds, now), updated_ms=now)
        session.touch(now)
        return session.describe(now)

    async def evict(self, session_id: str, tenant: str) -> tuple[Descriptor, int]:
        now, session = self.clock(), self._find(session_id, tenant)
        session.check_idle(now)
        self._leave(session)
        session.change(epoch=session.record.epoch + 1, owner="", kv_of="", kv_since_ms=0)
        return session.describe(now), session.record.epoch

    async def close(self, session_id: str, tenant: str) -> Descriptor:
        now, session = self.clock(), self._find(session_id, tenant)
        if session.record.state is not State.CLOSED:
            session.check_idle(now)
            self._leave(session)
            session.change(state=State.CLOSED, hold=None, updated_ms=now)
        return session.describe(now)

    async def delete(self, session_id: str, tenant: str, head: Head | None = None) -> int:
        session = self._find(session_id, tenant)
        session.check_head(head, 0 if head is None else head.generation)
        session.check_idle(self.clock())
        self._leave(session)
        del self.sessions[session_id]
        return session.record.epoch + 1

    async def ids(self, session_id: str, generation: int, start: int, end: int) -> bytes:
        return self._log(session_id, generation).ids[start * ID_BYTES : end * ID_BYTES]

    async def log(self, session_id: str, generation: int, first: int, count: int) -> list[LogEntry]:
        return self._log(session_id, generation).entries[first : first + max(count, 0)]

    async def step_place(self, session_id: str, step_id: str) -> tuple[int, int] | None:
        session = self._living(session_id)
        step = session.steps.get(step_id) if session is not None else None
        return (step.generation, step.index) if step is not None else None

    async def workers(self, pool: str) -> list[WorkerView]:
        self.pool(pool).working_set.expire(self.clock())
        views = [self.pool(pool).view(worker_id, self.clock()) for worker_id in self.pool(pool).leases]
        return [view for view in views if view is not None]

    async def residency(self, pool: str, worker_ids: Sequence[str], session_ids: Sequence[str]) -> dict[str, Residency]:
        return self.pool(pool).residency_of(worker_ids, session_ids)

    async def look(self, pool: str, worker_id: str, session_id: str) -> WorkerLook:
        now, session = self.clock(), self._living(session_id)
        cached = self.pool(pool).cached_at(worker_id, session.record, now) if session else Residency(worker_id, 0)
        return WorkerLook(self.pool(pool).view(worker_id, now), cached.cached_tokens, cached.warm_tokens)

    async def wakes(self, pool: str) -> AsyncIterator[Wake]:
        while True:
            await asyncio.sleep(_WAKE_SECONDS)
            yield Wake()

    async def aclose(self) -> None:
        """Does nothing: there is no connection."""

    def _find(self, session_id: str, tenant: str | None = None) -> MemorySession:
        """The session, of that tenant if one is given. Refuses: SESSION_NOT_FOUND."""
        session = self._living(session_id)
        if session is None or tenant not in (None, session.record.tenant):
            raise refused(Reason.SESSION_NOT_FOUND)
        return session

    def _living(self, session_id: str) -> MemorySession | None:
        """The session, or None when it does not exist or its idle time is over."""
        session = self.sessions.get(session_id)
        return None if session is None or session.is_gone(self.clock()) else session

    def _log(self, session_id: str, generation: int) -> Log:
        session = self._living(session_id)
        return session.log(generation) if session and 0 < generation <= len(session.logs) else Log()

    def _leave(self, session: MemorySession) -> None:
        """Ends what a session has under way; it is not live any more."""
        self.pool(session.record.pool).working_set.remove(session.short_name)
        attempts.end_attempt(self.pool(session.record.pool), session, self.clock())
