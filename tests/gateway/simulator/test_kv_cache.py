"""The simulated cache against a slow one that keeps every block in a list."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.host_memory import HostMemory
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.kv_cache import KvCache
from roost_gateway.simulator.workload import Turn
from roost_worker.engine.retention import Lru

BLOCK = 4
CAPACITY = 20
"""Blocks."""


@dataclass
class SlowLru:
    """Blocks of sessions, one by one: the least recently used session loses its last block first."""

    parked: dict[str, list[int]] = field(default_factory=dict)
    """Tokens in each block, sessions in the order in which they were parked."""
    running: dict[str, int] = field(default_factory=dict)
    """Blocks that each running session has."""
    slots: int = 0
    copies: list[tuple[str, int]] = field(default_factory=list)
    """Blocks in host memory, by session and number, the one that was used last at the end."""
    copied: int = 0

    def used(self) -> int:
        return sum(self.running.values()) + sum(map(len, self.parked.values()))

    def admit(self, session: str, kept: int, prompt: int, output: int) -> int | None:
        """Cached tokens of the prompt, or None when there is no room."""
        needed = -(-(prompt + output) // BLOCK)
        if needed + sum(self.running.values()) > CAPACITY:
            return None
        on_device = self.parked.pop(session, [])
        cached = min(sum(on_device), kept)
        self.copies = [copy for copy in self.copies if copy[0] != session or copy[1] < kept // BLOCK]
        restored, first = list[tuple[str, int]](), len(on_device)
        while cached == (first + len(restored)) * BLOCK and (session, first + len(restored)) in self.copies:
            restored.append((session, first + len(restored)))
            cached += BLOCK
        self._use(*reversed(restored))
        while self.used() + needed > CAPACITY:
            oldest = next(iter(self.parked))
            if self.parked[oldest].pop() == BLOCK:
                self._use((oldest, len(self.parked[oldest])))
            if not self.parked[oldest]:
                del self.parked[oldest]
        self.running[session] = needed
        return min(cached, prompt - 1)

    def _use(self, *copies: tuple[str, int]) -> None:
        """Copies blocks that have no copy, and marks the copies as used last."""
        for copy in copies if self.slots else ():
            self.copied += copy not in self.copies
            self.copies = [other for other in self.copies if other != copy]
            self.copies.append(copy)
        self.copies = self.copies[max(0, len(self.copies) - self.slots) :]

    def drop(self, session: str) -> None:
        self.parked.pop(session, None)
        self.copies = [copy for copy in self.copies if copy[0] != session]

    def park(self, session: str, tokens: int) -> None:
        del self.running[session]
        full, rest = divmod(tokens, BLOCK)
        self.parked[session] = [BLOCK] * full + [rest] * bool(rest)


def host_memory(slots: int) -> HostMemory:
    return HostMemory(slots, BLOCK, copied_blocks=1_000.0, prefilled_tokens=100.0)


def job_of(session: str, kept: int, new: int, output: int) -> Job:
    return Job(session, "", 0, kept, kept + new, Turn(kept, new, output), 0.0, continuation=True)


OPERATIONS = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(("step", "begin", "end", "drop")),
    st.integers(0, 40),
    st.integers(1, 20),
    st.integers(1, 5),
)


@given(st.lists(OPERATIONS, max_size=60), st.sampled_from((0, 3, 10, 100)))
def test_it_evicts_like_a_slow_lru(operations: list[tuple[str, str, int, int, int]], slots: int) -> None:
    host, slow = host_memory(slots), SlowLru(slots=slots)
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host)
    running: dict[str, Job] = {}
    for now, (session, what, kept, new, output) in enumerate(operations, start=1):
        if what in ("step", "begin") and session not in running:
            job = job_of(session, kept, new, output)
            ready = cache.cached_tokens(session), cache.warm_tokens(job)
            expected = slow.admit(session, kept, job.prompt_tokens, output)
            assert cache.admit(job, now) == (expected is not None)
            if expected is not None:
                assert job.cached_tokens == expected == min(min(ready[0], kept) + ready[1], job.prompt_tokens - 1)
                running[session] = job
        if what in ("step", "end") and session in running:
            job = running.pop(session)
            cache.park(job, now)
            slow.park(session, job.total_tokens - 1)
        if what == "drop" and session not in running:
            cache.drop(session, now)
            slow.drop(session)
        cache.check_integrity()
        assert cache.free == CAPACITY - slow.used()
        assert host.offloaded_blocks == slow.copied
        assert {name: cache.cached_tokens(name) for name in slow.parked} == {
            name: sum(blocks) for name, blocks in slow.parked.items()
        }


def shared(session: str, tokens: int, new: int = 4) -> Job:
    """The first step of a session that begins with `tokens` of a prefix."""
    return Job(session, "system", tokens, tokens, tokens + new, Turn(tokens, new, 1), 0.0, continuation=False)


def test_a_prefix_is_kept_once_and_grows() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host_memory(0))
    first, second, longer = shared("a", 12), shared("b", 12), shared("c", 20)
    for now, job in enumerate((first, second, longer)):
        assert cache.admit(job, float(now))
        cache.check_integrity()
    assert [job.cached_tokens for job in (first, second, longer)] == [0, 12, 12]
    assert CAPACITY - cache.free == 5 + 3 * 2, "the prefix, and two blocks of each session"


def test_a_prefix_that_nobody_uses_is_evicted_like_others() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host_memory(0))
    job = shared("a", 12)
    assert cache.admit(job, 0.0)
    cache.park(job, 1.0)
    cache.drop("a", 2.0)
    assert CAPACITY - cache.free == 3
    assert cache.admit(job_of("b", 0, CAPACITY * BLOCK - 1, 1), 3.0)
    cache.check_integrity()
    assert cache.free == 0


def test_a_prefix_comes_back_from_host_memory_and_what_is_behind_it() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host_memory(100))
    assert cache.admit(shared("a", 12, new=9), 0.0)
    parked = shared("a", 12, new=9)
    cache.park(parked, 1.0)
    other = job_of("b", 0, CAPACITY * BLOCK - 1, 1)
    assert cache.admit(other, 2.0)
    assert other.offloaded_blocks == 3 + 2, "the prefix, and what is full of the session"
    cache.park(other, 3.0)
    again = Job("a", "system", 12, parked.total_tokens, 30, Turn(0, 1, 1), 4.0, continuation=True)
    assert cache.warm_tokens(again) == (3 + 2) * BLOCK
    assert cache.admit(again, 4.0)
    assert (again.restored_blocks, again.cached_tokens) == (5, 20)
    assert cache.admit(new := shared("c", 12), 5.0)
    assert (new.restored_blocks, new.cached_tokens) == (0, 12), "the prefix is on the device"
    cache.check_integrity()


def test_copies_of_what_a_session_has_left_behind_are_of_no_use() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host_memory(100))
    everything = job_of("b", 0, CAPACITY * BLOCK - 1, 1)

    def step(kept: int, new: int, now: float) -> tuple[int, int]:
        """A step of session a, after which all of its blocks leave the device: how many were restored, and copied."""
        job, displacing = job_of("a", kept, new, 1), replace(everything)
        for admitted in (job, displacing):
            assert cache.admit(admitted, now)
            cache.park(admitted, now)
        return job.restored_blocks, displacing.offloaded_blocks

    assert step(0, 24, 1.0) == (0, 6)
    assert step(13, 7, 2.0) == (3, 2)
    assert step(9, 3, 3.0) == (2, 1)
    assert cache.warm_tokens(job_of("a", 20, 4, 1)) == 12


def test_nothing_is_copied_where_computing_is_faster() -> None:
    host = HostMemory(100, BLOCK, copied_blocks=10.0, prefilled_tokens=41.0)
    host.offload("a", 0, 5)
    assert (host.copies("a", 0, 5), host.offloaded_blocks) == (0, 0)


def test_a_job_takes_the_room_of_a_prefix_whose_sessions_are_parked() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru(), host_memory(0))
    job = shared("a", 40)
    assert cache.admit(job, 0.0)
    cache.park(job, 1.0)
    assert cache.admit(job_of("b", 0, CAPACITY * BLOCK - 1, 1), 2.0)
    cache.check_integrity()
    assert cache.cached_tokens("a") == 0
