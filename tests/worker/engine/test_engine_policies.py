"""What the engine asks of a retention policy, what it reports to it, and that any policy may rank as it likes."""

import random
import zlib
from dataclasses import replace
from math import inf

import pytest

from engine_driver import EngineDriver
from engine_model import EngineModel, random_operation
from roost_worker.engine.learned_returns import LearnedReturns
from roost_worker.engine.messages import Evict, Hold
from roost_worker.engine.retention import (
    Candidate,
    Eviction,
    Lru,
    LruSparingHeld,
    Rank,
    RetentionPolicy,
    Return,
)


class Recorder(LruSparingHeld):
    """The default policy, which writes down what it is asked and what is reported to it."""

    def __init__(self) -> None:
        self.asked = 0
        self.returns: list[Return] = []
        self.evictions: list[Eviction] = []

    def rank(self, candidate: Candidate, now: float) -> Rank:
        self.asked += 1
        return super().rank(candidate, now)

    def came_back(self, event: Return, now: float) -> None:
        self.returns.append(event)

    def evicted(self, event: Eviction, now: float) -> None:
        self.evictions.append(event)


def run_step(driver: EngineDriver, session: str | None, ids: list[int], max_tokens: int = 2) -> list[int]:
    """Run a step and return the context with its output."""
    answer = driver.submit(f"{session}-{len(driver.answers)}", ids, session=session, max_tokens=max_tokens)
    driver.run()
    return [*ids, *answer.token_ids]


class NewestFirst(RetentionPolicy):
    """What was used last goes first."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        return Rank((-candidate.last_used,))


def test_each_run_of_loose_blocks_is_a_candidate_not_only_the_oldest() -> None:
    driver = EngineDriver(blocks=9, context=32, policy=NewestFirst())
    for first in (1, 2):
        run_step(driver, None, [first] * 17, max_tokens=1)
        driver.now += 1.0
    run_step(driver, None, [3] * 12, max_tokens=1)
    hits = []
    for name, first in (("old", 1), ("new", 2)):
        answer = driver.submit(name, [first] * 17, max_tokens=1)
        driver.run()
        hits.append(answer.cached_tokens)
    assert hits == [16, 8]


class ToolsFirst(RetentionPolicy):
    """Sessions that wait for a browser go before all others."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        return Rank((float(candidate.tool != "browser"), candidate.expect_seconds, candidate.last_used))


def test_a_policy_can_go_by_the_tool_and_the_expected_seconds_of_a_hold() -> None:
    driver = EngineDriver(blocks=12, context=32, policy=ToolsFirst())
    for session, first, hold in (("a", 1, ("grep", 1.0)), ("b", 2, ("browser", 9.0)), ("c", 3, ("browser", 5.0))):
        run_step(driver, session, [first] * 14)
        driver.send(Hold(session, hold[1], hold[0]))
        driver.now += 1.0
    run_step(driver, None, [4] * 8, max_tokens=1)
    assert driver.resident == {"a": 15, "b": 15, "c": 8}
    run_step(driver, None, [5] * 19, max_tokens=1)
    assert driver.resident["a"] == 15


@pytest.mark.parametrize("sessions", [10, 40, 160])
def test_an_eviction_asks_the_policy_as_often_however_many_sessions_are_parked(sessions: int) -> None:
    """Each step evicts one session, is admitted, and parks its own: one question."""
    policy = Recorder()
    driver = EngineDriver(blocks=sessions, context=8, policy=policy)
    for number in range(sessions):
        run_step(driver, f"s{number}", [number % 50, number // 50, 1], max_tokens=2)
        driver.now += 1.0
    policy.asked = 0
    for number in range(8):
        run_step(driver, f"t{number}", [number, 40, 2], max_tokens=2)
    assert [event.candidate.session for event in policy.evictions] == [f"s{number}" for number in range(8)]
    assert policy.asked == 8


def test_a_session_that_comes_back_is_reported_with_what_it_found() -> None:
    policy = Recorder()
    driver = EngineDriver(policy=policy)
    log = run_step(driver, "s", list(range(10)))
    driver.send(Hold("s", 30.0, "grep"))
    driver.now += 5.0
    run_step(driver, "s", [*log, 7])
    parked = Candidate("s", 0.0, wanted=True, tokens=11, tool="grep", expect_seconds=30.0)
    assert policy.returns == [Return("s", 0.0, 10, 0, ()), Return("s", 5.0, 13, 11, (parked,))]


def test_a_policy_sees_the_role_of_a_session() -> None:
    policy = Recorder()
    driver = EngineDriver(policy=policy)
    driver.submit("first", [1] * 10, session="s", role="coder")
    driver.run()
    driver.send(Evict("s"))
    assert [event.candidate.role for event in policy.evictions] == ["coder"]


def test_a_session_that_comes_back_to_nothing_is_reported_too() -> None:
    policy = Recorder()
    driver = EngineDriver(blocks=8, context=32, policy=policy)
    log = run_step(driver, "s", [1] * 8, max_tokens=1)
    run_step(driver, None, [2] * 29, max_tokens=1)
    (eviction,) = policy.evictions
    assert (eviction.candidate.session, eviction.candidate.tokens, eviction.tokens) == ("s", 8, 8)
    run_step(driver, "s", [*log, 7], max_tokens=1)
    assert policy.returns[-1] == Return("s", 0.0, 10, 0, ())


def test_a_hit_on_loose_blocks_is_reported_with_their_run() -> None:
    policy = Recorder()
    driver = EngineDriver(policy=policy)
    run_step(driver, None, list(range(10)))
    driver.now += 1.0
    run_step(driver, None, [*range(10), 7])
    assert policy.returns[-1] == Return(None, 1.0, 11, 8, (Candidate(None, 0.0, tokens=8),))


def test_a_request_that_is_preempted_comes_back_once() -> None:
    policy = Recorder()
    driver = EngineDriver(blocks=5, context=20, batch=32, policy=policy)
    for name, first in (("first", 1), ("second", 2)):
        driver.submit(name, [first] * 7, session=name, max_tokens=10)
    driver.run()
    assert driver.engine.stats.preemptions == 1
    assert [event.session for event in policy.returns] == ["first", "second"]


def test_what_is_trimmed_and_what_is_asked_for_is_reported_as_such() -> None:
    policy = Recorder()
    driver = EngineDriver(blocks=9, context=32, policy=policy)
    for session, first in (("old", 1), ("new", 2)):
        run_step(driver, session, [first] * 14)
        driver.now += 1.0
    run_step(driver, None, [3] * 8, max_tokens=1)
    driver.send(Evict("old"))
    driver.send(Evict("nobody"))
    before = Candidate("old", 0.0, tokens=15)
    assert policy.evictions == [
        Eviction(before, 3, requested=False),
        Eviction(replace(before, tokens=12), 12, requested=True),
    ]


class Fickle(RetentionPolicy):
    """Ranks by a hash of all that it sees, and otherwise every second."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        return Rank((float(zlib.crc32(repr((candidate, int(now))).encode())),), until=int(now) + 1.0)


class Witness(RetentionPolicy):
    """Passes all on to another policy, and compares each evicted candidate with all that were spared."""

    def __init__(self, policy: RetentionPolicy) -> None:
        self.policy = policy
        self.model: EngineModel | None = None
        self.compared = 0

    def rank(self, candidate: Candidate, now: float) -> Rank:
        rank = self.policy.rank(candidate, now)
        assert rank.until > now
        return rank

    def came_back(self, event: Return, now: float) -> None:
        self.policy.came_back(event, now)

    def evicted(self, event: Eviction, now: float) -> None:
        self.policy.evicted(event, now)
        if event.requested:
            return
        rest = replace(event.candidate, tokens=event.candidate.tokens - event.tokens)
        spared = [candidate for candidate in self.candidates() if candidate != rest]
        self.compared += len(spared)
        lowest = min((self.policy.rank(candidate, now).order for candidate in spared), default=(inf,))
        assert self.policy.rank(event.candidate, now).order <= lowest

    def candidates(self) -> list[Candidate]:
        """All that can be evicted, read from the cache rather than from what was ranked."""
        assert self.model is not None
        engine = self.model.driver.engine
        waiting = {waiting.request.session for waiting in engine._scheduler.waiting}
        retained = engine._cache.retained
        parked = [
            Candidate(
                sequence.session,
                sequence.last_used,
                sequence.held_until,
                sequence.session in waiting & retained._wanted,
                len(sequence.ids),
                sequence.tool,
                sequence.expect_seconds,
            )
            for sequence in retained.parked
        ]
        return parked + [Candidate(None, run.last_used, tokens=len(run.blocks) * 4) for run in retained._loose.runs()]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_learned_changes_no_output(seed: int) -> None:
    rng = random.Random(seed)
    model = EngineModel(rng.randint(5, 14), rng.choice([4, 9, 32]), rng.randint(2, 4), LearnedReturns(0.01))
    for _ in range(100):
        random_operation(model, rng)
        model.driver.now += rng.choice([0.0, 0.5, 20.0])
    model.run()


@pytest.mark.parametrize("make", [LruSparingHeld, Lru, NewestFirst, ToolsFirst, Fickle])
def test_the_lowest_rank_goes_first_and_no_policy_changes_an_output(make: type[RetentionPolicy]) -> None:
    compared = 0
    for seed in range(12):
        rng = random.Random(seed)
        witness = Witness(make())
        model = EngineModel(rng.randint(5, 14), rng.choice([4, 9, 32]), rng.randint(2, 4), witness)
        witness.model = model
        for _ in range(100):
            random_operation(model, rng)
        model.run()
        compared += witness.compared
    assert compared > 100
