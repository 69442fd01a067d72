"""A worker's KV in blocks: of running steps, of sessions that pause (parked), and of shared prefixes. Pure.

It counts blocks where the engine keeps them (`roost_worker.engine.cache`); which of them go first is decided by the
engine's own order of eviction and retention policies. Blocks that leave the device may be kept in host memory. Simpler
than there: a running step has room for all of its output from the start, so that none is preempted, and sessions share
the prefix that the workload names, nothing else.
"""

from dataclasses import dataclass
from itertools import count

from roost_gateway.simulator.host_memory import HostMemory
from roost_gateway.simulator.job import Job
from roost_worker.engine.eviction_order import EvictionOrder, Key
from roost_worker.engine.retention import Candidate, Eviction, RetentionPolicy, Return


@dataclass(slots=True)
class _Prefix:
    """KV of a prefix. Once no session here has KV after it, it is a loose run, and a candidate for eviction."""

    number: int
    tokens: int = 0
    blocks: int = 0
    sessions: int = 0
    """With KV here, running or parked."""
    running: int = 0
    last_used: float = 0.0


@dataclass(slots=True)
class _Kv:
    """KV of a session, after the prefix that it shares."""

    prefix: str
    shared_tokens: int
    tokens: int
    """Its own; 0 while it runs."""
    blocks: int
    last_used: float = 0.0
    held_until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Cached:
    """What there is of a job's prompt, in tokens: of the prefix on the device, of the session on the device; and in
    blocks, what host memory has behind these."""

    prefix: int
    own: int
    prefix_copies: int
    own_copies: int


class KvCache:
    """The blocks of one worker."""

    def __init__(self, capacity_tokens: int, block_tokens: int, policy: RetentionPolicy, host: HostMemory) -> None:
        """Raise ValueError when the capacity is less than a block."""
        if not 1 <= block_tokens <= capacity_tokens:
            raise ValueError(f"{capacity_tokens} tokens are less than a block of {block_tokens}")
        self.total = self.free = capacity_tokens // block_tokens
        self._block_tokens = block_tokens
        self._policy, self._host = policy, host
        self._order = EvictionOrder(policy)
        self._prefixes: dict[str, _Prefix] = {}
        self._prefix_names: dict[int, str] = {}
        self._count = count(1)
        self._running: dict[str, _Kv] = {}
        self._parked: dict[str, _Kv] = {}
        self._wanted: set[str] = set()
        self._evictable = 0
        """Blocks that can be freed: of parked sessions, and of prefixes that no running session uses."""
        self.evicted_tokens = 0
        """Dropped to make room, since the start."""

    def fits(self, job: Job) -> bool:
        """Return whether the job could run on an empty worker."""
        own = job.total_tokens - job.shared_tokens
        return self._blocks(job.shared_tokens) + self._blocks(own) <= self.total

    def cached_tokens(self, session: str) -> int:
        """Return how many tokens of a parked session are cached, with those that it shares."""
        kv = self._parked.get(session)
        return kv.shared_tokens + kv.tokens if kv else 0

    def warm_tokens(self, job: Job) -> int:
        """Return how many tokens of a job's prompt are in host memory, behind those that are cached on the device."""
        cached = self._find(job)
        return max(0, self._with_copies(job, cached) - cached.prefix - cached.own)

    def want(self, session: str, now: float) -> None:
        """Note that a step of the session waits to run here."""
        self._wanted.add(session)
        self._rank(session, now)

    def admit(self, job: Job, now: float) -> bool:
        """Take blocks for the whole of `job`, and set what it has cached. Return False when too few can be freed."""
        prefix = self._prefixes.get(job.prefix) if job.shared_tokens else None
        cached = self._find(job)
        needed = self._blocks(job.total_tokens - job.shared_tokens)
        growth = max(0, self._blocks(job.shared_tokens) - (prefix.blocks if prefix else 0))
        reused = self._blocks(cached.own)
        missing = needed - reused + growth
        idle = prefix.blocks if prefix and not prefix.running else 0
        if missing > self.free + self._evictable - reused - idle:
            return False
        job.cached_tokens = min(cached.prefix + cached.own, job.prompt_tokens - 1)
        self._report_return(job, prefix, cached.own, now)
        self._restore(job, cached)
        used = self._use_prefix(job.prefix, now) if job.shared_tokens else None
        self._remove_parked(job.session, now, kept_blocks=reused)
        job.offloaded_blocks = self._make_room(missing, now)
        if used:
            used.blocks += growth
            used.tokens = max(used.tokens, job.shared_tokens)
        self.free -= missing
        self._wanted.discard(job.session)
        self._running[job.session] = _Kv(job.prefix, job.shared_tokens, 0, needed)
        return True

    def park(self, job: Job, now: float, held_until: float = 0.0) -> None:
        """Keep the KV of a job that has ended for its session. The last token of an output has no KV yet."""
        kv = self._running.pop(job.session)
        kv.tokens = max(0, job.total_tokens - 1 - job.shared_tokens)
        kv.last_used, kv.held_until = now, held_until
        blocks = self._blocks(kv.tokens)
        self.free += kv.blocks - blocks
        kv.blocks = blocks
        self._evictable += blocks
        self._parked[job.session] = kv
        if kv.shared_tokens:
            self._stop_in_prefix(self._prefixes[kv.prefix])
        if blocks:
            self._rank(job.session, now)
        else:
            self._remove_parked(job.session, now)

    def drop(self, session: str, now: float) -> None:
        """Free the KV of a parked session that has ended or moved away, as the gateway's Evict does."""
        self._host.cut(session, 0)
        kv = self._parked.get(session)
        if kv is None:
            return
        candidate = self._order.candidate(session)
        self._remove_parked(session, now)
        self._policy.evicted(Eviction(candidate, kv.tokens, requested=True), now)

    def check_integrity(self) -> None:
        """Raise AssertionError unless the blocks add up."""
        users = [*self._running.values(), *self._parked.values()]
        prefixes = self._prefixes.values()
        held = sum(kv.blocks for kv in users) + sum(prefix.blocks for prefix in prefixes)
        assert held + self.free == self.total, "blocks are lost"
        assert self.free >= 0, "more blocks are used than there are"
        idle = sum(prefix.blocks for prefix in prefixes if not prefix.running)
        assert self._evictable == sum(kv.blocks for kv in self._parked.values()) + idle, "evictable is miscounted"
        for name, prefix in self._prefixes.items():
            running, parked = (
                sum(kv.prefix == name and kv.shared_tokens > 0 for kv in users.values())
                for users in (self._running, self._parked)
            )
            assert (prefix.running, prefix.sessions) == (running, running + parked), f"users of {name} are miscounted"
        loose = [prefix for prefix in prefixes if not prefix.sessions]
        expected: dict[Key, Candidate] = {name: self._candidate(name) for name in self._parked}
        expected |= {prefix.number: _loose_candidate(prefix) for prefix in loose}
        self._order.check_integrity(expected)
        self._host.check_integrity()

    def _find(self, job: Job) -> _Cached:
        """Return what there is of a job's prompt. What comes after the prefix is of use only behind all of it."""
        prefix = self._prefixes.get(job.prefix) if job.shared_tokens else None
        ready = min(prefix.tokens, job.shared_tokens) if prefix else 0
        prefix_end = self._blocks(job.shared_tokens)
        first = prefix_end if ready == job.shared_tokens else ready // self._block_tokens
        prefix_copies = self._host.copies(_row_of_prefix(job.prefix), first, prefix_end)
        if first + prefix_copies < prefix_end:
            return _Cached(ready, 0, prefix_copies, 0)
        own = self._reusable(job, self._parked.get(job.session)) if ready == job.shared_tokens else 0
        own_end = (job.kept_tokens - job.shared_tokens) // self._block_tokens
        return _Cached(ready, own, prefix_copies, self._host.copies(job.session, self._blocks(own), own_end))

    def _with_copies(self, job: Job, cached: _Cached) -> int:
        """Return how many tokens of a job's prompt are cached, those in host memory included."""
        prefix = min(job.shared_tokens, cached.prefix + cached.prefix_copies * self._block_tokens)
        return min(prefix + cached.own + cached.own_copies * self._block_tokens, job.prompt_tokens - 1)

    def _restore(self, job: Job, cached: _Cached) -> None:
        """Restore what host memory has of a job's prompt, and drop what it has of what the session has left behind."""
        self._host.cut(job.session, (job.kept_tokens - job.shared_tokens) // self._block_tokens)
        self._host.restore(_row_of_prefix(job.prefix), cached.prefix // self._block_tokens, cached.prefix_copies)
        self._host.restore(job.session, self._blocks(cached.own), cached.own_copies)
        job.restored_blocks = cached.prefix_copies + cached.own_copies
        job.cached_tokens = self._with_copies(job, cached)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

    def _reusable(self, job: Job, parked: _Kv | None) -> int:
        """Return how many tokens of the session's own KV the job's prompt begins with."""
        if parked is None or parked.shared_tokens != job.shared_tokens:
            return 0
        return min(parked.tokens, job.kept_tokens - job.shared_tokens)

    def _report_return(self, job: Job, prefix: _Prefix | None, own: int, now: float) -> None:
        keys: list[Key] = [job.session] if own else []
        if prefix and not prefix.sessions:
            keys.append(prefix.number)
        used = tuple(map(self._order.candidate, keys))
        event = Return(job.session, job.placed, job.prompt_tokens, job.cached_tokens, used)
        self._policy.came_back(event, now)

    def _use_prefix(self, name: str, now: float) -> _Prefix:
        """Count one more running session that uses the prefix, which cannot be evicted while there is one."""
        prefix = self._prefixes.get(name)
        if prefix is None:
            prefix = self._prefixes[name] = _Prefix(next(self._count))
            self._prefix_names[prefix.number] = name
        elif not prefix.sessions:
            self._order.remove(prefix.number)
        if not prefix.running:
            self._evictable -= prefix.blocks
        prefix.sessions += 1
        prefix.running += 1
        prefix.last_used = now
        return prefix

    def _stop_in_prefix(self, prefix: _Prefix) -> None:
        """Count one less running session that uses the prefix."""
        prefix.running -= 1
        if not prefix.running:
            self._evictable += prefix.blocks

    def _leave_prefix(self, name: str, now: float) -> None:
        prefix = self._prefixes[name]
        prefix.sessions -= 1
        if not prefix.sessions:
            prefix.last_used = now
            self._order.put(prefix.number, _loose_candidate(prefix), now)

    def _remove_parked(self, session: str, now: float, kept_blocks: int = 0) -> None:
        """Forget the session's parked KV, and free its blocks but `kept_blocks`."""
        kv = self._parked.pop(session, None)
        if kv is None:
            return
        if kv.blocks:
            self._order.remove(session)
        self._evictable -= kv.blocks
        self.free += kv.blocks - kept_blocks
        if kv.shared_tokens:
            self._leave_prefix(kv.prefix, now)

    def _make_room(self, blocks: int, now: float) -> int:
        """Evict in the policy's order until `blocks` are free. Return how many have to be copied to host memory."""
        before = self._host.offloaded_blocks
        while self.free < blocks:
            key = self._order.first(now)
            assert key is not None, "blocks are neither loose nor parked"
            candidate = self._order.candidate(key)
            tokens = self._trim(key, blocks - self.free, now)
            self.evicted_tokens += tokens
            self._policy.evicted(Eviction(candidate, tokens, requested=False), now)
        return self._host.offloaded_blocks - before

    def _trim(self, key: Key, blocks: int, now: float) -> int:
        """Take up to `blocks` from a candidate's end. Return how many tokens it lost."""
        kv = self._parked[key] if isinstance(key, str) else self._prefixes[self._prefix_names[key]]
        taken, before = min(blocks, kv.blocks), kv.tokens
        kv.blocks -= taken
        if isinstance(key, str):
            self._host.offload(key, kv.blocks, before // self._block_tokens)
        else:
            self._host.offload(_row_of_prefix(self._prefix_names[key]), kv.blocks, self._blocks(before))
        kv.tokens = min(kv.tokens, kv.blocks * self._block_tokens)
        self.free += taken
        self._evictable -= taken
        if isinstance(key, str):
            self._after_trim(key, kv.blocks, now)
        elif kv.blocks:
            self._order.put(key, _loose_candidate(self._prefixes[self._prefix_names[key]]), now)
        else:
            self._order.remove(key)
            del self._prefixes[self._prefix_names.pop(key)]
        return before - kv.tokens

    def _after_trim(self, session: str, blocks: int, now: float) -> None:
        if blocks:
            self._rank(session, now)
            return
        kv = self._parked.pop(session)
        self._order.remove(session)
        if kv.shared_tokens:
            self._leave_prefix(kv.prefix, now)

    def _rank(self, session: str, now: float) -> None:
        if session in self._parked:
            self._order.put(session, self._candidate(session), now)

    def _candidate(self, session: str) -> Candidate:
        kv = self._parked[session]
        tokens = kv.shared_tokens + kv.tokens
        return Candidate(session, kv.last_used, kv.held_until, session in self._wanted, tokens)


def _row_of_prefix(name: str) -> str:
    """Return the name of a prefix's row in host memory. No session has such a name."""
    return f"\0{name}"


def _loose_candidate(prefix: _Prefix) -> Candidate:
    return Candidate(None, prefix.last_used, tokens=prefix.tokens)
