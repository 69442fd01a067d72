"""Sessions whose KV went to host memory go on as if it had never left the device."""

from engine_driver import EngineDriver
from roost_worker.engine.messages import Cancel, Evict
from roost_worker.engine.sequence import Sequence


def one_step(driver: EngineDriver, session: str, ids: list[int], **options: object) -> list[int]:
    """Runs a step of `session` and returns its new log."""
    answer = driver.submit(f"{session}-{len(driver.answers)}", ids, session=session, **options)
    driver.run()
    assert answer.token_ids == driver.expected(answer.request)
    return [*ids, *answer.token_ids]


def crowd_out(driver: EngineDriver) -> None:
    """Fills the device with another session and lets go of it."""
    driver.now += 1.0
    one_step(driver, "crowd", [3] * 30, max_tokens=2)
    driver.send(Evict("crowd"))
    driver.run()


def warm_session(driver: EngineDriver) -> list[int]:
    """Returns the log of session "s", of which nothing is left on the device, and 16 tokens in host memory."""
    log = one_step(driver, "s", [1] * 16, max_tokens=2)
    crowd_out(driver)
    assert "s" not in driver.resident
    assert driver.warm["s"] == 16
    return log


def slow_driver() -> EngineDriver:
    """An engine that restores one block in a batch, and computes even more slowly."""
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    driver.runner.seconds, driver.runner.copy_seconds = 10.0, 1.0
    return driver


def test_a_session_that_left_the_device_is_restored_and_not_computed_again() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    driver.runner.plans.clear()
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=4)
    driver.run()
    assert answer.token_ids == driver.expected(answer.request)
    assert answer.cached_tokens == 16
    assert sum(len(chunk.token_ids) for plan in driver.runner.plans for chunk in plan.chunks) == len(log) - 16 + 4
    assert driver.engine.stats.restored_blocks == 4
    assert (driver.resident["s"], driver.warm["s"]) == (22, 0)


def test_without_host_memory_the_same_session_is_computed_again() -> None:
    driver = EngineDriver(blocks=8, context=32)
    log = one_step(driver, "s", [1] * 16, max_tokens=2)
    crowd_out(driver)
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=4)
    driver.run()
    assert answer.cached_tokens == 0
    assert driver.warm == {}


def test_decoding_goes_on_while_another_session_is_restored() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    other = driver.submit("other", [2] * 3, max_tokens=8)
    driver.iterate()
    driver.submit("next", [*log, 7], session="s", max_tokens=1)
    driver.runner.plans.clear()
    before = len(other.token_ids)
    driver.iterate()
    assert [copy.restore for copy in driver.runner.plans[0].copies] == [True] * 4
    assert len(other.token_ids) == before + 1


def test_a_long_restore_takes_several_batches() -> None:
    driver = slow_driver()
    log = warm_session(driver)
    driver.runner.plans.clear()
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=1)
    driver.run()
    assert answer.cached_tokens == 16
    assert [sum(copy.restore for copy in plan.copies) for plan in driver.runner.plans] == [1, 1, 1, 1, 0]


def test_a_corrupted_block_is_computed_again_and_the_output_is_the_same() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    slot = next(copy.slot for plan in driver.runner.plans for copy in reversed(plan.copies))
    driver.runner.corrupted.add(slot)
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=4)
    driver.run()
    assert answer.token_ids == driver.expected(answer.request)
    assert answer.cached_tokens is not None
    assert answer.cached_tokens < 16
    assert driver.engine.stats.corrupted_blocks == 1


def test_an_evicted_session_leaves_host_memory_too() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    driver.send(Evict("s"))
    driver.run()
    assert driver.engine.stats.host_blocks == 0
    assert driver.warm["s"] == 0
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=1)
    driver.run()
    assert answer.cached_tokens == 0


def test_a_request_that_is_cancelled_while_it_is_restored_leaves_its_copies() -> None:
    driver = slow_driver()
    log = warm_session(driver)
    driver.submit("next", [*log, 7], session="s", max_tokens=4)
    driver.iterate()
    driver.send(Cancel("next"))
    driver.run()
    answer = driver.submit("again", [*log, 7], session="s", max_tokens=4)
    driver.run()
    assert answer.token_ids == driver.expected(answer.request)
    assert answer.cached_tokens == 16


def test_what_a_cancelled_request_did_not_restore_is_still_known_to_be_there() -> None:
    driver = slow_driver()
    log = warm_session(driver)
    driver.submit("next", [*log, 7], session="s", max_tokens=4)
    driver.iterate()
    driver.send(Cancel("next"))
    driver.run()
    assert (driver.resident["s"], driver.warm["s"]) == (4, 12)
    driver.send(Evict("s"))
    driver.run()
    assert driver.dropped[-1] == ("s", 16)
    assert driver.engine.stats.host_blocks == 0


def test_what_a_preempted_request_has_in_host_memory_is_still_known_when_it_ends() -> None:
    driver = EngineDriver(blocks=9, context=32, host_slots=9)
    first = driver.submit("first", [1] * 12, session="a", max_tokens=20, priority=0)
    driver.submit("second", [2] * 12, session="b", max_tokens=20, priority=1)
    while not driver.engine.stats.preemptions:
        driver.iterate()
    while driver.engine.stats.offloaded_blocks < 3:
        driver.iterate()
    driver.send(Cancel("second"))
    driver.iterate()
    assert driver.resident.get("b", 0) + driver.warm["b"] == 12
    driver.run()
    assert first.token_ids == driver.expected(first.request)


def test_what_was_restored_before_a_preemption_and_is_lost_does_not_count_as_cached() -> None:
    driver = EngineDriver(blocks=9, context=32, host_slots=3)
    driver.runner.seconds, driver.runner.copy_seconds = 10.0, 1.0
    log = one_step(driver, "s", [1] * 16, max_tokens=2)
    crowd_out(driver)
    driver.submit("first", [2] * 13, max_tokens=19)
    driver.iterate()
    driver.runner.plans.clear()
    answer = driver.submit("next", [*log, 7], session="s", max_tokens=1, priority=1)
    driver.run()
    assert driver.engine.stats.preemptions == 1
    last_chunk = driver.runner.plans[-1].chunks[-1]
    assert last_chunk.start + len(last_chunk.token_ids) == len(log) + 1
    assert answer.cached_tokens == last_chunk.start


def test_what_does_not_pay_to_restore_is_expected_to_be_computed() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    warm_session(driver)
    sequence = Sequence(driver.answers["s-0"].request, 100, 0.0)
    assert driver.engine._cache.cached_tokens(sequence) == 12
    driver.engine._cache.host.note_rates(1.0, 100.0)
    assert driver.engine._cache.cached_tokens(sequence) == 0


def test_tenants_do_not_share_copies() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    stranger = driver.submit("stranger", [*log, 7], tenant=b"another", max_tokens=1)
    driver.run()
    assert stranger.cached_tokens == 0


def test_a_batch_that_only_restores_measures_no_rate_of_decoding() -> None:
    driver = EngineDriver(blocks=8, context=32, host_slots=8)
    log = warm_session(driver)
    before = driver.engine.stats.decode_rate
    driver.submit("next", [*log, 7], session="s", max_tokens=1)
    driver.iterate()
    assert driver.engine.stats.decode_rate == before
    assert driver.engine.stats.restore_rate > 0
