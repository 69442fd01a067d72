"""The simulated cache against a slow one that keeps every block in a list."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

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

    def used(self) -> int:
        return sum(self.running.values()) + sum(map(len, self.parked.values()))

    def admit(self, session: str, kept: int, prompt: int, output: int) -> int | None:
        """Cached tokens of the prompt, or None when there is no room."""
        needed = -(-(prompt + output) // BLOCK)
        if needed + sum(self.running.values()) > CAPACITY:
            return None
        cached = min(sum(self.parked.pop(session, [])), kept, prompt - 1)
        while self.used() + needed > CAPACITY:
            oldest = next(iter(self.parked))
            self.parked[oldest].pop()
            if not self.parked[oldest]:
                del self.parked[oldest]
        self.running[session] = needed
        return cached

    def park(self, session: str, tokens: int) -> None:
        del self.running[session]
        full, rest = divmod(tokens, BLOCK)
        self.parked[session] = [BLOCK] * full + [rest] * bool(rest)


def job_of(session: str, kept: int, new: int, output: int) -> Job:
    return Job(session, "", 0, kept, kept + new, Turn(kept, new, output), 0.0, continuation=True)


OPERATIONS = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(("step", "begin", "end", "drop")),
    st.integers(0, 40),
    st.integers(1, 20),
    st.integers(1, 5),
)


@given(st.lists(OPERATIONS, max_size=60))
def test_it_evicts_like_a_slow_lru(operations: list[tuple[str, str, int, int, int]]) -> None:
    cache, slow = KvCache(CAPACITY * BLOCK, BLOCK, Lru()), SlowLru()
    running: dict[str, Job] = {}
    for now, (session, what, kept, new, output) in enumerate(operations, start=1):
        if what in ("step", "begin") and session not in running:
            job = job_of(session, kept, new, output)
            expected = slow.admit(session, kept, job.prompt_tokens, output)
            assert cache.admit(job, now) == (expected is not None)
            if expected is not None:
                assert job.cached_tokens == expected
                running[session] = job
        if what in ("step", "end") and session in running:
            job = running.pop(session)
            cache.park(job, now)
            slow.park(session, job.total_tokens - 1)
        if what == "drop" and session not in running:
            cache.drop(session, now)
            slow.parked.pop(session, None)
        cache.check_integrity()
        assert cache.free == CAPACITY - slow.used()
        assert {name: cache.cached_tokens(name) for name in slow.parked} == {
            name: sum(blocks) for name, blocks in slow.parked.items()
        }


def shared(session: str, tokens: int, new: int = 4) -> Job:
    """The first step of a session that begins with `tokens` of a prefix."""
    return Job(session, "system", tokens, tokens, tokens + new, Turn(tokens, new, 1), 0.0, continuation=False)


def test_a_prefix_is_kept_once_and_grows() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru())
    first, second, longer = shared("a", 12), shared("b", 12), shared("c", 20)
    for now, job in enumerate((first, second, longer)):
        assert cache.admit(job, float(now))
        cache.check_integrity()
    assert [job.cached_tokens for job in (first, second, longer)] == [0, 12, 12]
    assert CAPACITY - cache.free == 5 + 3 * 2, "the prefix, and two blocks of each session"


def test_a_prefix_that_nobody_uses_is_evicted_like_others() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru())
    job = shared("a", 12)
    assert cache.admit(job, 0.0)
    cache.park(job, 1.0)
    cache.drop("a", 2.0)
    assert CAPACITY - cache.free == 3
    assert cache.admit(job_of("b", 0, CAPACITY * BLOCK - 1, 1), 3.0)
    cache.check_integrity()
    assert cache.free == 0


def test_a_job_takes_the_room_of_a_prefix_whose_sessions_are_parked() -> None:
    cache = KvCache(CAPACITY * BLOCK, BLOCK, Lru())
    job = shared("a", 40)
    assert cache.admit(job, 0.0)
    cache.park(job, 1.0)
    assert cache.admit(job_of("b", 0, CAPACITY * BLOCK - 1, 1), 2.0)
    cache.check_integrity()
    assert cache.cached_tokens("a") == 0
