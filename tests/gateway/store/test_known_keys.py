"""What a gateway remembers of sessions stays small, and names the workers that a session may ask for."""

from roost.store.known_keys import FEW_WORKERS, KnownKeys, Shape
from roost.store.records import FIRST_GENERATION

FEW = [f"w{number}" for number in range(FEW_WORKERS)]


def test_of_an_unknown_session_all_workers_of_a_small_pool_are_named_and_none_of_a_large_one() -> None:
    keys = KnownKeys()
    assert keys.hosts("s", FEW) == FEW
    assert keys.hosts("s", [*FEW, "one more"]) == ()


def test_the_last_two_workers_of_a_session_are_named() -> None:
    keys = KnownKeys()
    for worker in ("a", "b", "c", "b"):
        keys.learn_host("s", worker)
    assert keys.hosts("s", FEW) == ("c", "b")


def test_the_sessions_used_least_lately_are_forgotten() -> None:
    keys = KnownKeys(most=2)
    for session in ("s1", "s2", "s1", "s3"):
        keys.learn_host(session, "w")
        keys.learn_shape(session, Shape(7))
    assert [bool(keys.hosts(session, [*FEW, "one more"])) for session in ("s1", "s2", "s3")] == [True, False, True]
    assert [keys.shape(session).generations for session in ("s1", "s2", "s3")] == [7, FIRST_GENERATION, 7]


def test_asking_for_a_session_keeps_it() -> None:
    keys = KnownKeys(most=2)
    for session in ("s1", "s2"):
        keys.learn_shape(session, Shape(7))
    assert keys.shape("s1").generations == 7
    keys.learn_shape("s3", Shape(7))
    assert [keys.shape(session).generations for session in ("s1", "s2")] == [7, FIRST_GENERATION]
