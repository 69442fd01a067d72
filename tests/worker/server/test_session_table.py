"""Logs and boundaries of sessions: matched only when verified, rolled back, rebuilt from history, fenced by epoch."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.contract.heads import AttemptRef, Head
from roost.contract.loghash import EMPTY, extend, pack_ids
from roost_worker.server.session_log import HistoryError, MissingHistory, SessionLog, empty_log
from roost_worker.server.sessions import LogRef, SessionTable

SESSION = "a/b/s"


def ids(*values: int) -> "array[int]":
    return array("I", values)


def chain(*steps: "array[int]") -> list[Head]:
    boundaries = [Head()]
    for step in steps:
        end = boundaries[-1]
        boundaries.append(Head(end.length + len(step), extend(end.log_hash, pack_ids(step))))
    return boundaries


def ref(head: Head, generation: int = 1) -> LogRef:
    return LogRef(SESSION, generation, head)


def table_with(*steps: "array[int]") -> SessionTable:
    table = SessionTable()
    log = empty_log(1)
    for step in steps:
        table.finish(SESSION, log, step)
        log = table.find(ref(chain(*steps)[len(log.boundaries)]))
        assert isinstance(log, SessionLog)
        table.put(SESSION, log)
    return table


def test_an_empty_head_always_matches():
    assert table_with(ids(1, 2)).find(ref(Head())) == empty_log(1)


def test_an_unknown_session_needs_its_whole_history():
    history = SessionTable().find(ref(Head(3, b"x" * 16)))
    assert isinstance(history, MissingHistory)
    assert history.from_token == 0


def test_a_finished_step_matches_whether_or_not_its_commit_was_heard():
    steps = [ids(1, 2), ids(3)]
    heads = chain(*steps)
    table = table_with(steps[0])
    log = table.find(ref(heads[1]))
    table.finish(SESSION, log, steps[1])
    assert table.find(ref(heads[2])).ids == ids(1, 2, 3)
    assert table.find(ref(heads[1])).ids == ids(1, 2)


def test_another_generation_matches_nothing():
    steps = [ids(1, 2), ids(3)]
    history = table_with(*steps).find(ref(chain(*steps)[2], generation=2))
    assert isinstance(history, MissingHistory)
    assert history.from_token == 0


def test_history_is_asked_from_the_last_committed_boundary_not_from_a_provisional_one():
    steps = [ids(1, 2), ids(3, 4)]
    table = table_with(steps[0])
    table.finish(SESSION, table.find(ref(chain(steps[0])[1])), ids(9, 9))
    history = table.find(ref(Head(7, b"x" * 16)))
    assert history.from_token == 2


def test_history_is_asked_from_below_a_head_that_was_rolled_back_and_diverged():
    table = table_with(ids(1, 2), ids(3, 4), ids(5, 6))
    assert table.find(ref(Head(4, b"other hash 12345"))).from_token == 2


def test_a_commit_of_another_log_forgets_the_session():
    table = table_with(ids(1, 2))
    assert not table.commit(SESSION, Head(2, b"x" * 16))
    assert table.find(ref(chain(ids(1, 2))[1])).from_token == 0


def test_a_dropped_session_keeps_its_epoch():
    table = table_with(ids(1, 2))
    assert table.admit(SESSION, AttemptRef(5, b"n"))
    table.drop(SESSION)
    assert not table.admit(SESSION, AttemptRef(4, b"m"))
    assert table.admit(SESSION, AttemptRef(5, b"n"))


def test_one_epoch_belongs_to_one_nonce():
    table = SessionTable()
    assert table.admit(SESSION, AttemptRef(5, b"n"))
    assert table.admit(SESSION, AttemptRef(5, b"n"))
    assert not table.admit(SESSION, AttemptRef(5, b"m"))


def test_the_table_forgets_the_least_recently_used():
    table = SessionTable(max_logs=2, max_epochs=2)
    for name in "abc":
        table.finish(name, empty_log(1), ids(1))
        table.admit(name, AttemptRef(1))
    table.check_integrity()
    head = chain(ids(1))[1]
    assert isinstance(table.find(LogRef("a", 1, head)), MissingHistory)
    assert isinstance(table.find(LogRef("c", 1, head)), SessionLog)
    assert table.admit("a", AttemptRef(0))
    assert not table.admit("c", AttemptRef(0))


def test_history_of_several_steps_is_verified_by_its_step_ends():
    steps = [ids(1, 2), ids(3), ids(4, 5)]
    heads = chain(*steps)
    history = MissingHistory(empty_log(1), heads[3])
    history.add(0, ids(1, 2, 3), [2, 3])
    history.add(3, ids(4, 5), [5])
    assert history.joined().boundaries == tuple(heads)


def test_history_that_does_not_continue_the_known_log_is_asked_again_from_the_start():
    heads = chain(ids(1, 2), ids(3))
    known = SessionLog(1, ids(7, 7), (Head(), *chain(ids(7, 7))[1:]))
    history = MissingHistory(known, heads[2])
    history.add(2, ids(3))
    assert history.joined() is None


def test_a_whole_log_without_step_ends_is_taken_with_its_head_alone():
    heads = chain(ids(1, 2), ids(3))
    history = MissingHistory(empty_log(1), heads[2])
    history.add(0, ids(1, 2, 3))
    assert history.joined().boundaries == (Head(), heads[2])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(1, ids(1), [])], "continues at token 1"),
        ([(0, ids(1, 2, 3, 4), [])], "goes beyond the head"),
        ([(0, ids(1), [])], "ends at token 1"),
        ([(0, ids(1, 2, 3), [2, 2])], "do not ascend"),
        ([(0, ids(1, 2, 3), [1, 3])], "does not hash to the head"),
        ([(0, ids(1, 2, 8), [2, 3])], "does not hash to the head"),
    ],
)
def test_impossible_history_is_refused(runs, message):
    history = MissingHistory(empty_log(1), chain(ids(1, 2), ids(3))[2])

    def collect() -> None:
        for offset, run, ends in runs:
            history.add(offset, run, ends)
        history.joined()

    with pytest.raises(HistoryError, match=message):
        collect()


STEPS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(lambda values: array("I", values)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(known=STEPS, actual=STEPS, provisional=st.booleans(), with_ends=st.booleans())
def test_whatever_the_worker_knew_it_ends_with_exactly_the_gateways_log(known, actual, provisional, with_ends):
    """The worker's log may be a prefix, a divergence or unrelated: what `find` and `joined` return is the record's."""
    table = table_with(*known)
    if provisional:
        table.finish(SESSION, table.find(ref(chain(*known)[-1])), array("I", [3]))
    whole = array("I", [token for step in actual for token in step])
    heads = chain(*actual)
    history = table.find(ref(heads[-1]))
    rounds = 0
    while isinstance(history, MissingHistory):
        rounds += 1
        start = history.from_token
        ends = [head.length for head in heads if head.length > start] if with_ends else []
        history.add(start, whole[start:], ends)
        history = history.joined() or MissingHistory(empty_log(1), heads[-1])
    assert rounds <= 2
    assert (history.ids, history.end) == (whole, heads[-1])
    assert set(history.boundaries) <= set(heads)
    table.put(SESSION, history)
    table.check_integrity()


def test_the_hash_of_an_empty_log_is_empty():
    assert empty_log(1).end == Head(0, EMPTY)
