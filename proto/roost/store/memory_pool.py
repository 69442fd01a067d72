"""One pool of the store in memory: its workers, what is reserved at them, and which attempts wait in which line. Pure.

The rules are those of `_ledger.lua`, `_waiters.lua` and `_working_set.lua`; a property test compares the two. `now` is
in ms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from roost.contract.lease import WorkerLease
from roost.store.entry import Entry, Reserved
from roost.store.memory_accounts import MemoryAccounts
from roost.store.memory_session import MemorySession, Work
from roost.store.records import CommitRequest, Descriptor
from roost.store.residency import Residency, warm_field
from roost.store.rules import RESIDENCY_DELAY_MS, aged_class
from roost.store.service import MOST_COMPARED, ServiceCounters
from roost.store.worker_views import WorkerView
from roost.store.working_set import HELD, IDLE_MS, Admission, Footprint, WorkingSet, is_evicted, is_mostly_lost

Rank = tuple[int, str]
"""Class and time of enqueueing as one number, then the nonce: the lower goes first."""
Place = tuple[int, int, Rank]
"""Level (`aged_class`), the tenant's counter, and rank: the lower goes first."""


@dataclass(slots=True)
class Claim:
    """Tokens that are reserved for an attempt at a worker."""

    tokens: int
    expiry_ms: int

    def holds(self, now: int) -> bool:
        return self.expiry_ms > now


@dataclass(slots=True)
class Waiter:
    """An attempt's place in the line of the revision that it needs; '' if any worker can serve it."""

    line: str
    tenant: str
    priority: int
    enqueued_ms: int
    deadline_ms: int
    expiry_ms: int
    rank: Rank

    def is_over(self, now: int) -> bool:
        return 0 < self.deadline_ms <= now or self.expiry_ms <= now


@dataclass(slots=True)
class MemoryPool:
    """What the store keeps of a pool besides its sessions."""

    aging_ms: int
    adapt_ms: int
    leases: dict[str, tuple[WorkerLease, int]] = field(default_factory=dict)
    """Worker id -> its lease and when that ends."""
    residency: dict[str, dict[str, int]] = field(default_factory=dict)
    """Worker id -> cached tokens of each session, and under its `warm_field` those in host memory."""
    claims: dict[tuple[str, bytes], Claim] = field(default_factory=dict)
    """(worker id, nonce) -> what is reserved."""
    waiters: dict[bytes, Waiter] = field(default_factory=dict)
    """Nonce -> place."""
    accounts: MemoryAccounts = field(default_factory=MemoryAccounts)
    over: set[bytes] = field(default_factory=set)
    """Waiters whose time is over, as far as a call has noticed since the last `purge`."""
    working_set: WorkingSet = field(default_factory=WorkingSet)
    services: ServiceCounters = field(default_factory=ServiceCounters)

    def publish_cached(self, session_id: str, worker_id: str, tokens: int, warm: int) -> None:
        """As a worker says what it has cached of a session, on its device and in host memory; 0 tokens: nothing."""
        cached = self.residency.setdefault(worker_id, {})
        for field_, count in ((session_id, tokens), (warm_field(session_id), warm)):
            cached[field_] = count
            if not count:
                del cached[field_]

    def residency_of(self, worker_ids: Sequence[str], session_ids: Sequence[str]) -> dict[str, Residency]:
        """Where sessions are, by what the workers have published; without those that are nowhere."""
        best: dict[str, Residency] = {}
        for worker_id in worker_ids:
            for session_id in session_ids:
                published = self.published(worker_id, session_id)
                if any(published.order()):
                    best[session_id] = max(best.get(session_id, published), published, key=Residency.order)
        return best

    def is_alive(self, worker: str, now: int) -> bool:
        return worker in self.leases and self.leases[worker][1] > now

    def view(self, worker: str, now: int) -> WorkerView | None:
        """A worker with a lease in force."""
        if not self.is_alive(worker, now):
            return None
        lease, expiry_ms = self.leases[worker]
        live = self.working_set
        return WorkerView(lease, expiry_ms - now, *self.reserved(worker, now), live.tokens(worker), live.target.value)

    def cached_at(self, worker: str, session: Descriptor, now: int) -> Residency:
        """What a worker has cached of the log; all of it on its device until it could have published otherwise."""
        expiry_ms = self.leases[worker][1] if worker in self.leases else 0
        since_ms = session.kv_since_ms if session.kv_of else session.updated_ms
        if expiry_ms <= now or expiry_ms - RESIDENCY_DELAY_MS < since_ms:
            return Residency(worker, session.head.length)
        published = self.published(worker, session.published_as)
        if not session.kv_of:
            return published
        cached = min(published.cached_tokens, session.head.length)
        return Residency(worker, cached, min(published.warm_tokens, session.head.length - cached))

    def published(self, worker: str, name: str) -> Residency:
        """What a worker publishes of a session."""
        tokens = self.residency.get(worker, {})
        return Residency(worker, tokens.get(name, 0), tokens.get(warm_field(name), 0))

    def reserved(self, worker: str, now: int, *, besides: bytes = b"") -> tuple[int, int]:
        """Tokens and attempts at a worker, without those of one nonce."""
        tokens = [
            claim.tokens
            for (where, nonce), claim in self.claims.items()
            if where == worker and nonce != besides and claim.holds(now)
        ]
        return sum(tokens), len(tokens)

    def tokens_of(self, worker: str, nonce: bytes, now: int) -> int:
        """What an attempt has reserved at a worker; 0 when that is nothing."""
        claim = self.claims.get((worker, nonce))
        return claim.tokens if claim and claim.holds(now) else 0

    def has_room(self, worker: str, tokens: int, besides: bytes, now: int) -> bool:
        lease = self.leases[worker][0]
        reserved, attempts = self.reserved(worker, now, besides=besides)
        return not lease.draining and reserved + tokens <= lease.capacity_tokens and attempts < 2 * lease.max_running

    def rank(self, priority: int, enqueued_ms: int, nonce: bytes) -> Rank:
        return priority * self.aging_ms + enqueued_ms, nonce.hex()

    def enqueued_ms(self, nonce: bytes, now: int) -> int:
        """Since when an attempt waits; now when it does not."""
        waiter = self.waiters.get(nonce)
        return waiter.enqueued_ms if waiter and not waiter.is_over(now) else now

    def place(self, counter: int, priority: int, enqueued_ms: int, nonce: bytes, now: int) -> Place:
        level = aged_class(priority, (now - enqueued_ms) // self.aging_ms)
        return level, counter, self.rank(priority, enqueued_ms, nonce)

    def must_wait(self, worker: str, place: Place, own: set[bytes], now: int, *, held: bool) -> bool:
        """Whether an attempt other than `own` waits that the worker can serve and that goes before `place`. One that is
        held at the gate goes after all that wait for room, and keeps none of these from it."""
        for revision in dict.fromkeys((self.leases[worker][0].model_revision, "")):
            first = self._first(line_of(revision), own, now)
            if first is not None and (held or first < place):
                return True
            held_first = self._first(line_of(revision, held=True), own, now) if held else None
            if held_first is not None and held_first < place:
                return True
        return False

    def admits(self, worker: str, needed: Footprint) -> bool:
        """Whether the worker's gate is open for a session that is not live there."""
        return self.working_set.admits(worker, needed, self.leases[worker][0].capacity_tokens)

    def observe(self, log_tokens: int, lost_tokens: int, now: int) -> None:
        """Counts a live session that came back, and how much of its log was lost."""
        held = any(waiter.line.startswith(HELD) for waiter in self.waiters.values())
        self.working_set.target.observe(log_tokens, lost_tokens, now, held=held, adapt_ms=self.adapt_ms)

    def claim(
        self,
        session: MemorySession,
        nonce: bytes,
        claim: Claim,
        worker: str,
        entry: Entry,
        tokens: int,
        now: int,
        *,
        again: bool,
    ) -> None:
        """Reserves for an attempt, whose session is live from now on. `again` says that its step had reserved there
        already: KV is promised to a session that was live there before its step."""
        self.claims[worker, nonce] = claim
        if entry.admission is not Admission.UNCOUNTED:
            name, live = session.short_name, self.working_set.live.get(session.short_name)
            needed = session.footprint(tokens, entry.prefix, entry.prefix_tokens)
            promised = live is not None and live.worker == worker and (live.promised or not again)
            self.working_set.put(name, worker, needed, now + IDLE_MS, promised=promised)

    def is_live(self, session: MemorySession) -> bool:
        return session.short_name in self.working_set.live

    def has_evicted(self, session: MemorySession, cached_tokens: int) -> bool:
        """Whether a live session without an attempt has lost too much of its log at its owner."""
        live, record = self.working_set.live.get(session.short_name), session.record
        at_owner = live is not None and live.worker == record.owner and session.attempt is None
        if not at_owner:
            return False
        capacity = self.leases[record.owner][0].capacity_tokens if record.owner in self.leases else 0
        is_over = self.working_set.is_over(record.owner, capacity)
        return is_evicted(record.head.length, cached_tokens, is_over=is_over)

    def count_evicted(self, session: MemorySession, cached_tokens: int, now: int) -> None:
        self.working_set.remove(session.short_name)
        if self.is_alive(session.record.owner, now):  # else it is lost with its worker
            self.observe(session.record.head.length, session.record.head.length - cached_tokens, now)

    def count_commit(self, session: MemorySession, request: CommitRequest, now: int) -> None:
        """Lets a live session pause at the worker that has run its step, unless most of its log was computed again.
        Before the step is in its record."""
        live, entry = self.working_set.live.get(session.short_name), request.entry
        if live is None:
            return
        if live.promised and not session.is_rewritten:
            log_tokens, lost_tokens = session.record.head.length, entry.reconstructed_tokens
            self.observe(log_tokens, lost_tokens, now)
            if is_mostly_lost(log_tokens, log_tokens - lost_tokens):  # Begin came before residency was published
                self.working_set.remove(session.short_name)
                return
        needed = session.footprint(entry.head.length, live.footprint.prefix, live.footprint.prefix_tokens)
        self.working_set.put(session.short_name, request.owner, needed, now + IDLE_MS)

    def waits(self, worker: str, now: int, *, held: bool) -> Reserved:
        """The answer to a reservation that is not granted."""
        live, first_end = self.working_set, self.working_set.earliest_end()
        capacity = self.leases[worker][0].capacity_tokens if self.is_alive(worker, now) else 0
        first_end_ms = None if first_end is None else first_end - now
        return Reserved(False, held, live.tokens(worker), live.target.limit(capacity), first_end_ms)

    def rest(self, session: MemorySession, now: int, end_ms: int | None = None) -> None:
        """Lets a live session pause after an attempt that has not committed, or until `end_ms`: it needs its log, where
        the owner is; it is not live anywhere else."""
        name, record = session.short_name, session.record
        live = self.working_set.live.get(name)
        if live is None:
            return
        if live.worker != record.owner or not record.head.length:
            self.working_set.remove(name)
            return
        needed = session.footprint(record.head.length, live.footprint.prefix, live.footprint.prefix_tokens)
        self.working_set.put(name, record.owner, needed, now + IDLE_MS if end_ms is None else end_ms)

    def shrink(self, session: MemorySession, now: int) -> None:
        """Lets a live session need no more than its log, which was folded, where it is live."""
        live = self.working_set.live.get(session.short_name)
        if live is not None:
            needed = session.footprint(session.record.head.length, live.footprint.prefix, live.footprint.prefix_tokens)
            self.working_set.put(session.short_name, live.worker, needed, now + IDLE_MS)

    def _first(self, line: str, own: set[bytes], now: int) -> Place | None:
        """The place of the first of a line."""
        best: list[Place] = []
        for nonce, waiter in self._living(line, own, now):
            counter = self.services.counter(waiter.tenant)
            place = self.place(counter, waiter.priority, waiter.enqueued_ms, nonce, now)
            if best and (place[0] > best[0][0] or len(best) == MOST_COMPARED):
                break
            best.append(place)
        return min(best, default=None)

    def _living(self, line: str, own: set[bytes], now: int) -> Iterator[tuple[bytes, Waiter]]:
        """Those of a line that wait, by rank. Those before whose time is over are marked."""
        for _, nonce in sorted((waiter.rank, nonce) for nonce, waiter in self.waiters.items() if waiter.line == line):
            waiter = self.waiters[nonce]
            if waiter.is_over(now):
                self.over.add(nonce)
            elif nonce not in own:
                yield nonce, waiter

    def purge(self, now: int, *, waits: bool) -> None:
        """Removes the waiters in `over` and expired claims. With `waits`, first looks for expired waiters in every
        line."""
        for line in {waiter.line for waiter in self.waiters.values()} if waits else ():
            next(self._living(line, set(), now), None)
        self.waiters = {nonce: waiter for nonce, waiter in self.waiters.items() if nonce not in self.over}
        self.claims = {key: claim for key, claim in self.claims.items() if claim.holds(now)}
        self.over.clear()

    def enter_line(
        self, line: str, nonce: bytes, tenant: str, priority: int, enqueued_ms: int, deadline_ms: int, expiry_ms: int
    ) -> None:
        rank = self.rank(priority, enqueued_ms, nonce)
        self.waiters[nonce] = Waiter(line, tenant, priority, enqueued_ms, deadline_ms, expiry_ms, rank)

    def drop_claims(self, attempt: Work | None) -> None:
        """Gives back what an attempt has reserved, and its place."""
        if attempt is not None:
            self.waiters.pop(attempt.ref.nonce, None)
            self.claims.pop((attempt.worker, attempt.ref.nonce), None)


def line_of(revision: str, *, held: bool = False) -> str:
    """Name of the line of steps that need a revision; those that are held at the gate have one of their own."""
    return (HELD if held else "") + revision.replace("|", "/")
