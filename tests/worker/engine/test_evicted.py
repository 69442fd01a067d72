"""What the engine reports of KV that goes to make room: whose it was, how much, and for whom."""

from engine_driver import EngineDriver
from roost_worker.engine.messages import Evict, Evicted


def run(driver: EngineDriver, session: str | None, prompt: list[int], tenant: bytes = b"tenant") -> None:
    driver.submit(f"{session}-{len(driver.answers)}", prompt, session=session, tenant=tenant, max_tokens=1)
    driver.run()


def test_the_end_of_a_session_goes_for_the_growth_of_another_of_its_tenant() -> None:
    driver = EngineDriver(blocks=8)
    run(driver, "s", [1] * 20)
    run(driver, "t", [2] * 17)
    assert driver.evicted == [Evicted("s", 8, "t")]
    assert driver.resident == {"s": 12, "t": 17}


def test_neither_the_session_of_another_tenant_nor_one_shot_work_is_named() -> None:
    driver = EngineDriver(blocks=8)
    run(driver, "s", [1] * 20)
    run(driver, "t", [2] * 17, b"other")
    run(driver, None, [3] * 20)
    assert driver.evicted == [Evicted("s", 8), Evicted("s", 12), Evicted("t", 5)]


def test_what_was_asked_for_is_not_among_it() -> None:
    driver = EngineDriver(blocks=8)
    run(driver, "s", [1] * 20)
    driver.send(Evict("s"))
    driver.run()
    assert driver.evicted == []
    assert driver.dropped == [("s", 20)]
