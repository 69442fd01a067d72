"""One pool of the store's model: what its workers are, what is reserved at them, and who waits."""

from dataclasses import dataclass, field


@dataclass
class Attempt:
    epoch: int
    nonce: bytes
    step: str
    digest: bytes
    seed: int
    worker: str
    tokens: int
    expired: bool
    fenced: tuple[int, bytes, str] | None
    migrated: bool = False


@dataclass
class Worker:
    capacity: int
    max_running: int
    alive: bool = True
    draining: bool = False
    revision: str = "rev-1"


@dataclass
class Waiter:
    rank: tuple[int, int, str]
    expired: bool
    line: str
    """Revision that it needs; empty: any."""


@dataclass
class Pool:
    workers: dict[str, Worker] = field(default_factory=dict)
    reservations: dict[tuple[str, bytes], tuple[int, bool]] = field(default_factory=dict)
    """(worker, nonce) -> tokens, expired."""
    waiters: dict[bytes, Waiter] = field(default_factory=dict)
    over: set[bytes] = field(default_factory=set)
    """Waiters that a look at their line passed over, to be purged."""

    def held(self, worker: str, besides: bytes = b"") -> tuple[int, int]:
        """Tokens and attempts at a worker."""
        live = [
            tokens
            for (where, nonce), (tokens, expired) in self.reservations.items()
            if where == worker and nonce != besides and not expired
        ]
        return sum(live), len(live)

    def fits(self, worker: str, tokens: int, besides: bytes) -> bool:
        its = self.workers[worker]
        held, count = self.held(worker, besides)
        return not its.draining and held + tokens <= its.capacity and count < 2 * its.max_running

    def alive(self, worker: str) -> bool:
        return worker in self.workers and self.workers[worker].alive

    def must_wait(self, worker: str, rank: tuple[int, int, str], *own: bytes) -> bool:
        """Whether anybody whom the worker can serve goes first. Those at the head of a line whose time is over go."""
        for line in dict.fromkeys((self.workers[worker].revision, "")):
            for nonce, its in sorted(self.waiters.items(), key=lambda item: item[1].rank):
                if its.line != line:
                    continue
                if its.expired:
                    self.over.add(nonce)
                elif nonce not in own:
                    if its.rank < rank:
                        return True
                    break
        return False

    def find_over(self) -> None:
        """Whoever enters a line clears the head of every line."""
        for line in {waiter.line for waiter in self.waiters.values()}:
            for nonce, waiter in sorted(self.waiters.items(), key=lambda item: item[1].rank):
                if waiter.line == line:
                    if not waiter.expired:
                        break
                    self.over.add(nonce)

    def enqueued(self, nonce: bytes) -> int | None:
        waiter = self.waiters.get(nonce)
        return waiter.rank[1] if waiter and not waiter.expired else None

    def purge(self) -> None:
        self.reservations = {key: value for key, value in self.reservations.items() if not value[1]}
        self.waiters = {nonce: waiter for nonce, waiter in self.waiters.items() if nonce not in self.over}
        self.over.clear()

    def drop(self, attempt: Attempt | None) -> None:
        if attempt:
            self.reservations.pop((attempt.worker, attempt.nonce), None)
            self.waiters.pop(attempt.nonce, None)
