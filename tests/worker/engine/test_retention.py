"""The order in which the default policy gives up what is cached."""

from roost_worker.engine.retention import Candidate, LruSparingHeld


def order(*candidates: Candidate, now: float = 10.0) -> list[Candidate]:
    policy = LruSparingHeld()
    return sorted(candidates, key=lambda candidate: policy.rank(candidate, now))


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
