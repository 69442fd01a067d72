"""What a gateway remembers of sessions stays small, and names the workers that a session may ask for."""

from roost.store.records import FIRST_GENERATION
from roost.store.session_memory import FEW_WORKERS, SessionMemory

FEW = [f"w{number}" for number in range(FEW_WORKERS)]


def test_of_an_unknown_session_all_workers_of_a_small_pool_are_named_and_none_of_a_large_one() -> None:
    memory = SessionMemory()
    assert memory.hosts("s", FEW) == FEW
    assert memory.hosts("s", [*FEW, "one more"]) == ()


def test_the_last_two_workers_of_a_session_are_named() -> None:
    memory = SessionMemory()
    for worker in ("a", "b", "c", "b"):
        memory.learn_host("s", worker)
    assert memory.hosts("s", FEW) == ("c", "b")


def test_the_sessions_used_least_lately_are_forgotten() -> None:
    memory = SessionMemory(most=2)
    for session in ("s1", "s2", "s1", "s3"):
        memory.learn_host(session, "w")
        memory.learn_generations(session, 7)
    assert [bool(memory.hosts(session, [*FEW, "one more"])) for session in ("s1", "s2", "s3")] == [True, False, True]
    assert [memory.generations(session) for session in ("s1", "s2", "s3")] == [7, FIRST_GENERATION, 7]


def test_asking_for_a_session_keeps_it() -> None:
    memory = SessionMemory(most=2)
    for session in ("s1", "s2"):
        memory.learn_generations(session, 7)
    assert memory.generations("s1") == 7
    memory.learn_generations("s3", 7)
    assert [memory.generations(session) for session in ("s1", "s2")] == [7, FIRST_GENERATION]
