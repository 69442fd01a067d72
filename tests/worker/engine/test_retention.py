"""The order in which each policy gives up what is cached."""

from math import inf

from roost_worker.engine.policies import DEFAULT_POLICY, POLICIES
from roost_worker.engine.retention import Candidate, Lru, LruSparingHeld, RetentionPolicy


def order(*candidates: Candidate, now: float = 10.0, policy: RetentionPolicy | None = None) -> list[Candidate]:
    ranking = policy or LruSparingHeld()
    return sorted(candidates, key=lambda candidate: ranking.rank(candidate, now).order)


def test_the_least_recently_used_goes_first_whether_a_session_or_a_block() -> None:
    old, block, new = Candidate("old", 1.0), Candidate(None, 2.0), Candidate("new", 3.0)
    assert order(new, block, old) == [old, block, new]


def test_held_sessions_go_after_all_others_while_the_hold_lasts() -> None:
    held, other = Candidate("held", 1.0, held_until=20.0), Candidate("other", 9.0)
    assert order(held, other) == [other, held]
    assert order(held, other, now=20.0) == [held, other]


def test_sessions_about_to_run_go_last() -> None:
    wanted, held = Candidate("wanted", 1.0, wanted=True), Candidate("held", 9.0, held_until=20.0)
    assert order(wanted, held) == [held, wanted]


def test_a_rank_expires_with_the_hold_that_it_counts() -> None:
    held = Candidate("held", 1.0, held_until=20.0)
    assert LruSparingHeld().rank(held, 10.0).until == 20.0
    assert LruSparingHeld().rank(held, 20.0).until == inf


def test_lru_does_not_care_for_holds_but_for_sessions_about_to_run() -> None:
    wanted, held, other = Candidate("w", 1.0, wanted=True), Candidate("held", 2.0, held_until=20.0), Candidate("o", 3.0)
    assert order(wanted, other, held, policy=Lru()) == [held, other, wanted]


def test_every_name_makes_a_policy_of_its_own() -> None:
    assert DEFAULT_POLICY in POLICIES
    for make in POLICIES.values():
        assert make(0.0) is not make(0.0)
        assert make(0.0).rank(Candidate("s", 1.0), 2.0).order
