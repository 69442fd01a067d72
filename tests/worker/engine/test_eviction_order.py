"""The order of eviction against a model that ranks every candidate each time, and what it costs."""

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roost_worker.engine.eviction_order import EvictionOrder, Key, KeyedHeap
from roost_worker.engine.retention import Candidate, LruSparingHeld, Rank, RetentionPolicy

KEYS = st.sampled_from(["a", "b", "c", 1, 2, 3])


class Counting(LruSparingHeld):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def rank(self, candidate: Candidate, now: float) -> Rank:
        self.asked += 1
        return super().rank(candidate, now)


def candidate_of(key: Key, last_used: float) -> Candidate:
    return Candidate(key if isinstance(key, str) else None, last_used)


class OrderMachine(RuleBasedStateMachine):
    """Candidates with holds that run out while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.order = EvictionOrder(LruSparingHeld())
        self.candidates: dict[Key, Candidate] = {}
        self.now = 0.0

    @rule(key=KEYS, last_used=st.sampled_from([1.0, 2.0]), wanted=st.booleans(), hold=st.sampled_from([0.0, 0.5, 2.0]))
    def put(self, key: Key, last_used: float, wanted: bool, hold: float) -> None:
        held_until = self.now + hold if hold else 0.0
        candidate = replace(candidate_of(key, last_used), held_until=held_until, wanted=wanted)
        self.order.put(key, candidate, self.now)
        self.candidates[key] = candidate

    @rule(key=KEYS)
    def remove(self, key: Key) -> None:
        if self.candidates.pop(key, None):
            self.order.remove(key)

    @rule(seconds=st.sampled_from([0.5, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def first_is_the_lowest_of_all(self) -> None:
        self.order.check_integrity(self.candidates)
        policy, oldest = LruSparingHeld(), {key: place for place, key in enumerate(self.candidates)}
        lowest = min(
            self.candidates,
            key=lambda key: (
                policy.rank(self.candidates[key], self.now).order,
                isinstance(key, str),
                oldest[key],
            ),
            default=None,
        )
        assert self.order.first(self.now) == lowest

    @invariant()
    def below_a_candidate_is_all_that_ranks_lower(self) -> None:
        policy, candidate = LruSparingHeld(), Candidate("new", 2.0, held_until=self.now + 1.0)
        ranks = {key: policy.rank(other, self.now).order for key, other in self.candidates.items()}
        below = list(self.order.below(candidate, self.now))
        assert set(below) == {key for key in ranks if ranks[key] < policy.rank(candidate, self.now).order}
        assert [ranks[key] for key in below] == sorted(ranks[key] for key in below)


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def evict_and_replace(candidates: int, evictions: int) -> int:
    """Evict the first of `candidates` and add another, `evictions` times. Return how often the policy was asked."""
    policy = Counting()
    order = EvictionOrder(policy)
    for key in range(candidates):
        order.put(key, Candidate(None, float(key)), 0.0)
    policy.asked = 0
    for key in range(candidates, candidates + evictions):
        first = order.first(0.0)
        assert first == key - candidates
        order.remove(first)
        order.put(key, Candidate(None, float(key)), 0.0)
    return policy.asked


@pytest.mark.parametrize("candidates", [1, 10, 1000, 10_000])
def test_an_eviction_asks_the_policy_about_what_changed_alone(candidates: int) -> None:
    assert evict_and_replace(candidates, 50) == 50


@pytest.mark.parametrize("candidates", [16, 256, 4096])
def test_an_eviction_compares_a_logarithmic_number_of_ranks(candidates: int) -> None:
    comparisons = 0

    class Compared(float):
        """A number that counts how often it is compared."""

        def __lt__(self, other: float) -> bool:
            nonlocal comparisons
            comparisons += 1
            return float(self) < float(other)

    heap, evictions = KeyedHeap(), candidates // 2
    for key in range(candidates):
        heap.put(key, Compared(key * 7919 % candidates))
    comparisons = 0
    for key in range(candidates, candidates + evictions):
        first = heap.first()
        assert first is not None
        heap.remove(first[1])
        heap.put(key, Compared(candidates + key))
    assert comparisons <= evictions * 4 * math.log2(candidates)


def test_a_hold_that_runs_out_is_ranked_again_once() -> None:
    policy = Counting()
    order = EvictionOrder(policy)
    for key in range(100):
        order.put(f"s{key}", Candidate(f"s{key}", float(key), held_until=10.0 if key < 30 else 0.0), 0.0)
    policy.asked = 0
    assert order.first(9.0) == "s30"
    assert policy.asked == 0
    assert order.first(10.0) == "s0"
    assert policy.asked == 30
    assert order.first(11.0) == "s0"
    assert policy.asked == 30


def test_a_rank_that_is_never_valid_is_asked_for_each_time() -> None:
    class Restless(RetentionPolicy):
        """The order is that of the names, or its reverse, as time tells."""

        def rank(self, candidate: Candidate, now: float) -> Rank:
            return Rank((candidate.last_used * (-1) ** int(now),), until=now)

    order = EvictionOrder(Restless())
    for key in ("a", "b", "c"):
        order.put(key, Candidate(key, float(ord(key))), 0.0)
    assert [order.first(now) for now in (0.0, 1.0, 2.0)] == ["a", "c", "a"]


def test_what_is_moved_and_removed_leaves_no_memory_behind() -> None:
    heap = KeyedHeap()
    for turn in range(10_000):
        heap.put(turn % 7, turn)
        heap.remove((turn + 3) % 7)
    assert len(heap._heap) <= 2 * 7 + 17
