"""KV that is kept although no running sequence uses it (parked sequences, loose runs), and how room is made."""

from array import array
from collections.abc import Iterable, Set
from typing import NamedTuple

from roost_worker.engine.block_pool import BlockPool
from roost_worker.engine.eviction_order import EvictionOrder, Key
from roost_worker.engine.host_tier import HostTier
from roost_worker.engine.loose import LooseRun, LooseRuns
from roost_worker.engine.messages import Evicted, Submit
from roost_worker.engine.parked import ParkedSequence, ParkedSequences
from roost_worker.engine.prefix_index import PrefixIndex
from roost_worker.engine.retention import Candidate, Eviction, RetentionPolicy, Return
from roost_worker.engine.sequence import Sequence


class RetainedChanges(NamedTuple):
    """Sessions with a number of tokens each, as `Outputs` reports them."""

    parked: tuple[tuple[str, int], ...]
    dropped: tuple[tuple[str, int], ...]
    warm: tuple[tuple[str, int], ...]


class Retained:
    """Parked sequences and loose runs; each is a candidate in the policy's order of eviction."""

    def __init__(
        self, pool: BlockPool, index: PrefixIndex, block_tokens: int, policy: RetentionPolicy, host: HostTier
    ) -> None:
        self.parked = ParkedSequences()
        self._host = host
        self._pool, self._index, self._block_tokens, self._policy = pool, index, block_tokens, policy
        self._loose = LooseRuns()
        self._order = EvictionOrder(policy)
        self._wanted: set[str] = set()
        self._changed: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._evicted: list[Evicted] = []

    def take_changes(self) -> RetainedChanges:
        """Return what has changed since the last call."""
        parked, dropped = tuple(self._changed.items()), tuple(self._dropped.items())
        self._changed, self._dropped = {}, {}
        return RetainedChanges(parked, dropped, self._host.take_warm(parked, dropped))

    def take_evicted(self) -> tuple[Evicted, ...]:
        """Return what parked sequences have lost to others, as `Outputs` reports it, and forget it."""
        evicted, self._evicted = tuple(self._evicted), []
        return evicted

    def hold(self, session: str, until: float, tool: str, expect_seconds: float, now: float) -> None:
        """Mark the session's parked sequence, if there is one, as held until that time."""
        self.parked.hold(session, until, tool, expect_seconds)
        self._rank_parked(session, now)

    def end_hold(self, session: str, now: float) -> None:
        """End the session's hold, if there is one."""
        if self.parked.end_hold(session):
            self._rank_parked(session, now)

    def set_wanted(self, session: str, wanted: bool, now: float) -> None:
        """Note whether a request of the session waits to run."""
        if wanted:
            self._wanted.add(session)
        else:
            self._wanted.discard(session)
        self._rank_parked(session, now)

    def park(self, parked: ParkedSequence, now: float) -> None:
        """Keep the blocks of a sequence that stops running, for its session."""
        for block in parked.blocks:
            self._pool.park(block)
        self.parked.add(parked)
        self._rank_parked(parked.session, now)
        self._changed[parked.session] = len(parked.ids)

    def unpark(self, session: str, now: float) -> int:
        """Remove the session's parked sequence; blocks without another reference become loose. Return its tokens."""
        parked = self._pop_parked(session)
        if parked is None:
            return 0
        self.keep_loose([block for block in parked.blocks if self._pool.unpark(block)], now)
        return len(parked.ids)

    def keep_loose(self, blocks: Iterable[int], now: float) -> None:
        """Keep those of `blocks` that are in the prefix index, as a run. They have no references, and are in order."""
        if sealed := [block for block in blocks if self._pool.sealed(block)]:
            self._rank_loose(self._loose.add(sealed, now), now)

    def share(self, blocks: Iterable[int], now: float) -> None:
        """Give a running sequence a reference to each of `blocks`, which are sealed and may be loose."""
        shrunk: dict[int, LooseRun] = {}
        for block in blocks:
            if self._loose.run_of(block):
                run = self._loose.take(block)
                shrunk[run.number] = run
            self._pool.acquire(block)
        for run in shrunk.values():
            self._rank_loose(run, now)

    def make_private(self, block: int) -> None:
        """Take `block` out of the prefix index if it is there: its only user may write it; without one it is free."""
        if self._pool.sealed(block):
            key = self._index.remove(block)
            self._pool.unseal(block)
            self._host.left_device(key)

    def came_back(self, sequence: Sequence, blocks: "array[int]", now: float) -> None:
        """Report to the policy that `sequence` is about to reuse `blocks`, which hold its computed tokens."""
        session = sequence.request.session
        parked = self.parked.get(session) if session else None
        runs = filter(None, map(self._loose.run_of, blocks))
        keys: dict[Key, None] = dict.fromkeys(run.number for run in runs)
        if session and parked and set(parked.blocks).intersection(blocks):
            keys[session] = None
        used = tuple(map(self._order.candidate, keys))
        event = Return(session, sequence.submitted, len(sequence.ids), sequence.computed, used)
        self._policy.came_back(event, now)

    def make_room(self, blocks: int, growing: Submit, now: float) -> None:
        """Evict in the policy's order until `blocks` are free, for the request that needs them."""
        while self._pool.free < blocks:
            first = self._order.first(now)
            assert first is not None, "blocks are neither loose nor parked"
            candidate = self._order.candidate(first)
            parked = self.parked.get(first) if isinstance(first, str) else None
            dropped = self._trim(first, blocks, now)
            if parked:
                self._evicted.append(_evicted(parked, dropped, growing))
            self._policy.evicted(Eviction(candidate, dropped, requested=False), now)

    def can_spare(self, blocks: int, candidate: Candidate, kept: Set[int], now: float) -> bool:
        """Return whether `make_room` would free as many blocks from what is worth less than `candidate`: what goes
        before it, and is not expected back sooner. `kept` are blocks that `candidate` has."""
        missing = blocks - self._pool.free
        others = (key for key in self._order.below(candidate, now) if key != candidate.session)
        for key in others:
            if missing <= 0 or now < self._order.candidate(key).held_until < candidate.held_until:
                break
            missing -= sum(1 for block in self._evictable(key) if block not in kept)
        return missing <= 0

    def evict(self, session: str, now: float) -> None:
        """Drop the session's parked sequence and its unshared blocks, on the device and in host memory. It is reported
        as dropped even if nothing was parked."""
        candidate = self._order.candidate(session) if self.parked.get(session) else None
        parked = self._pop_parked(session)
        cached_tokens = self._host.drop_session(session)
        for block in parked.blocks if parked else ():
            if self._pool.unpark(block):
                self.make_private(block)
        self.report_dropped(session, max(len(parked.ids) if parked else 0, cached_tokens))
        if candidate:
            self._policy.evicted(Eviction(candidate, candidate.tokens, requested=True), now)

    def report_dropped(self, session: str, tokens: int) -> None:
        """Report that the session lost its parked sequence."""
        self._changed.pop(session, None)
        self._dropped[session] = tokens

    def check_integrity(self, referenced: Iterable[int]) -> None:
        """Raise AssertionError unless runs and candidates are consistent; `referenced` blocks belong to sequences."""
        self.parked.check_integrity(self._block_tokens)
        self._loose.check_integrity()
        self._host.check_integrity()
        assert self._loose.blocks() == self._index.blocks() - set(referenced), "loose blocks are miscounted"
        expected: dict[Key, Candidate] = {parked.session: self._parked_candidate(parked) for parked in self.parked}
        self._order.check_integrity(expected | {run.number: self._loose_candidate(run) for run in self._loose.runs()})

    def _evictable(self, key: Key) -> list[int]:
        """Return the blocks that are free once the candidate is evicted."""
        if isinstance(key, int):
            return list(self._loose.get(key).blocks)
        parked = self.parked.get(key)
        assert parked is not None, f"{key} is a candidate but not parked"
        return [block for block in parked.blocks if self._pool.references(block) == 1]

    def _trim(self, key: Key, blocks: int, now: float) -> int:
        """Evict from a candidate's end until `blocks` are free or it is gone. Return the tokens evicted."""
        if isinstance(key, str):
            return self._trim_parked(key, blocks, now)
        return self._trim_loose(key, blocks, now)

    def _trim_parked(self, session: str, blocks: int, now: float) -> int:
        parked = self.parked.get(session)
        assert parked is not None, f"{session} is a candidate but not parked"
        tokens = len(parked.ids)
        while parked.blocks and self._pool.free < blocks:
            block = parked.pop_block(self._block_tokens)
            if self._pool.unpark(block):
                self._leave_device(block)
        if parked.blocks:
            self._changed[session] = len(parked.ids)
            self._rank_parked(session, now)
        else:
            self._pop_parked(session)
            self.report_dropped(session, tokens)
        return tokens - len(parked.ids)

    def _trim_loose(self, number: int, blocks: int, now: float) -> int:
        run = self._loose.get(number)
        before = len(run.blocks)
        while run.blocks and self._pool.free < blocks:
            self._leave_device(self._loose.take_last(run))
        self._rank_loose(run, now)
        return (before - len(run.blocks)) * self._block_tokens

    def _pop_parked(self, session: str) -> ParkedSequence | None:
        parked = self.parked.pop(session)
        if parked:
            self._order.remove(session)
        return parked

    def _leave_device(self, block: int) -> None:
        """Free a block without references. A full one may be kept in host memory."""
        if self._pool.sealed(block):
            self._host.offload(block)
            self.make_private(block)

    def _rank_parked(self, session: str, now: float) -> None:
        if parked := self.parked.get(session):
            self._order.put(session, self._parked_candidate(parked), now)

    def _rank_loose(self, run: LooseRun, now: float) -> None:
        if run.blocks:
            self._order.put(run.number, self._loose_candidate(run), now)
        else:
            self._order.remove(run.number)

    def _parked_candidate(self, parked: ParkedSequence) -> Candidate:
        return Candidate(
            parked.session,
            parked.last_used,
            parked.held_until,
            parked.session in self._wanted,
            len(parked.ids),
            parked.tool,
            parked.expect_seconds,
            parked.role,
        )

    def _loose_candidate(self, run: LooseRun) -> Candidate:
        return Candidate(None, run.last_used, tokens=len(run.blocks) * self._block_tokens)


def _evicted(parked: ParkedSequence, tokens: int, growing: Submit) -> Evicted:
    """Name the session that grows only where the two share a cache key: sessions of other tenants are not named."""
    known = growing.session if growing.cache_key == parked.cache_key else None
    return Evicted(parked.session, tokens, known or "")
