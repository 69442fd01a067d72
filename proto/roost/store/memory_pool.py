"""One pool of the store in memory: its workers, what is reserved at them, and which attempts wait in which line. Pure.

The rules are those of `_ledger.lua` and `_waiters.lua`; a property test compares the two. `now` is in ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from roost.contract.lease import WorkerLease
from roost.store.memory_accounts import MemoryAccounts
from roost.store.memory_session import Work
from roost.store.records import Descriptor, WorkerView
from roost.store.residency import Residency, warm_field
from roost.store.rules import RESIDENCY_DELAY_MS

Rank = tuple[int, str]
"""Class and time of enqueueing as one number, then the nonce: the lower goes first."""


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
        return WorkerView(lease, expiry_ms - now, *self.reserved(worker, now))

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

    def must_wait(self, worker: str, rank: Rank, own: set[bytes], now: int) -> bool:
        """Whether an attempt other than `own` waits that the worker can serve and that goes before `rank`."""
        for line in dict.fromkeys((line_of(self.leases[worker][0].model_revision), "")):
            first = self._first(line, own, now)
            if first is not None and first < rank:
                return True
        return False

    def _first(self, line: str, own: set[bytes], now: int) -> Rank | None:
        """The first of a line; those whose time is over before it are marked."""
        places = sorted((waiter.rank, nonce) for nonce, waiter in self.waiters.items() if waiter.line == line)
        for rank, nonce in places:
            if self.waiters[nonce].is_over(now):
                self.over.add(nonce)
            elif nonce not in own:
                return rank
        return None

    def purge(self, now: int, *, waits: bool) -> None:
        """Removes the waiters in `over` and expired claims. With `waits`, first looks for expired waiters in every
        line."""
        for line in {waiter.line for waiter in self.waiters.values()} if waits else ():
            self._first(line, set(), now)
        self.waiters = {nonce: waiter for nonce, waiter in self.waiters.items() if nonce not in self.over}
        self.claims = {key: claim for key, claim in self.claims.items() if claim.holds(now)}
        self.over.clear()

    def enter_line(
        self, line: str, nonce: bytes, priority: int, enqueued_ms: int, deadline_ms: int, expiry_ms: int
    ) -> None:
        rank = self.rank(priority, enqueued_ms, nonce)
        self.waiters[nonce] = Waiter(line_of(line), priority, enqueued_ms, deadline_ms, expiry_ms, rank)

    def drop_claims(self, attempt: Work | None) -> None:
        """Gives back what an attempt has reserved, and its place."""
        if attempt is not None:
            self.waiters.pop(attempt.ref.nonce, None)
            self.claims.pop((attempt.worker, attempt.ref.nonce), None)


def line_of(revision: str) -> str:
    return revision.replace("|", "/")
