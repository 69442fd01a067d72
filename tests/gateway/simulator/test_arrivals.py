"""When sessions begin."""

from itertools import islice

import pytest

from roost_gateway.simulator.arrivals import ClosedLoop, OpenLoop, shuffled_forever
from roost_gateway.simulator.workload import Session, Turn

TURNS = (Turn(0, 5, 1, gap_seconds=2.0),)


def sessions(*starts: float) -> list[Session]:
    return [Session(f"s{number}", TURNS, start_seconds=start) for number, start in enumerate(starts)]


def test_a_closed_loop_begins_one_session_for_each_that_ends() -> None:
    loop = ClosedLoop(iter(sessions(0, 0, 0, 0)), 3, ramp_seconds=30.0)
    assert [(start.time, start.session.name) for start in loop.first()] == [(0.0, "s0"), (10.0, "s1"), (20.0, "s2")]
    assert loop.after_start(5.0) is None
    last = loop.after_end(42.0)
    assert last is not None
    assert (last.time, last.session.name) == (42.0, "s3")
    assert loop.after_end(43.0) is None


def test_an_open_loop_follows_the_recorded_times() -> None:
    loop = OpenLoop(iter(sessions(1.5, 4.0)), None, seed=0)
    assert [start.time for start in loop.first()] == [1.5]
    assert loop.after_end(2.0) is None
    second = loop.after_start(1.5)
    assert second is not None
    assert second.time == 4.0
    assert loop.after_start(4.0) is None


def test_an_open_loop_has_its_rate_and_seed() -> None:
    def times(seed: int) -> list[float]:
        loop, now = OpenLoop(shuffled_forever(sessions(0), 0), 4.0, seed), [0.0]
        for _ in range(2000):
            start = loop.after_start(now[-1])
            assert start is not None
            now.append(start.time)
        return now

    assert times(1)[-1] == pytest.approx(500.0, rel=0.1)
    assert times(1) == times(1) != times(2)


def test_sessions_repeat_in_another_order_and_under_new_names() -> None:
    pool = sessions(*range(20))
    names = [session.name for session in islice(shuffled_forever(pool, 1), 60)]
    rounds = [[name.partition("/")[0] for name in names[at : at + 20]] for at in (0, 20, 40)]
    assert len(set(names)) == 60
    assert all(sorted(order) == sorted(session.name for session in pool) for order in rounds)
    assert rounds[0] != rounds[1]
    assert names == [session.name for session in islice(shuffled_forever(pool, 1), 60)]
    assert names != [session.name for session in islice(shuffled_forever(pool, 2), 60)]
