"""What is shared, kept and given up, and what is never shared."""

import pytest

from engine_driver import EngineDriver
from roost_worker.engine.messages import Cancel, Evict, Hold

PROMPT = list(range(10))


def one_step(driver: EngineDriver, session: str, ids: list[int], **options: object) -> list[int]:
    """Runs a step of `session` and returns its new log."""
    answer = driver.submit(f"{session}-{len(driver.answers)}", ids, session=session, **options)
    driver.run()
    assert answer.token_ids == driver.expected(answer.request)
    return [*ids, *answer.token_ids]


def test_the_next_step_computes_only_what_is_new() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT)
    driver.runner.plans.clear()
    answer = driver.submit("next", [*log, 7, 8], session="s", max_tokens=1)
    driver.run()
    assert answer.cached_tokens == len(log) - 1
    assert [list(chunk.token_ids) for plan in driver.runner.plans for chunk in plan.chunks] == [[log[-1], 7, 8]]


def test_a_diverging_context_keeps_the_common_prefix_with_its_own_tail() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT, max_tokens=5)
    assert driver.resident["s"] == 14
    other = driver.submit("next", [*log[:13], 49, 49], session="s")
    driver.run()
    assert other.cached_tokens == 13
    assert other.token_ids == driver.expected(other.request)


def test_divergence_within_a_full_block_nobody_shares_keeps_it_as_the_tail() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT, max_tokens=8)
    other = driver.submit("next", [*log[:6], 49], session="s")
    driver.run()
    assert other.cached_tokens == 6
    assert other.token_ids == driver.expected(other.request)


def test_divergence_within_a_shared_block_computes_the_block_again() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT, max_tokens=8)
    one_step(driver, "t", PROMPT, max_tokens=8)
    other = driver.submit("next", [*log[:6], 49], session="s")
    driver.run()
    assert other.cached_tokens == 4
    again = driver.submit("again", [*log, 1], session="t")
    driver.run()
    assert again.cached_tokens == len(log) - 1


def test_two_sessions_share_full_blocks_and_not_the_tail() -> None:
    driver = EngineDriver()
    one_step(driver, "s", PROMPT)
    in_cache = driver.engine.stats.blocks_cached
    shared = driver.submit("t", PROMPT, session="t")
    driver.run()
    assert shared.cached_tokens == 8
    assert shared.token_ids == driver.expected(shared.request)
    assert driver.engine.stats.blocks_cached == in_cache + 1


def test_one_shots_share_with_each_other() -> None:
    driver = EngineDriver()
    driver.submit("one", PROMPT)
    driver.run()
    two = driver.submit("two", PROMPT)
    driver.run()
    assert two.cached_tokens == 8


def test_at_least_the_last_token_is_computed() -> None:
    driver = EngineDriver()
    driver.submit("one", list(range(8)), max_tokens=1)
    driver.run()
    two = driver.submit("two", list(range(8)), max_tokens=3)
    driver.run()
    assert two.cached_tokens == 4
    assert two.token_ids == driver.expected(two.request)


def test_equal_prompts_in_one_batch_end_up_in_one_set_of_full_blocks() -> None:
    driver = EngineDriver(batch=64)
    for name in ("a", "b", "c"):
        driver.submit(name, list(range(12)), session=name, max_tokens=1)
    driver.run()
    assert driver.engine.stats.blocks_cached == 3


def test_equal_prompts_that_come_together_are_computed_once_if_a_batch_holds_only_one() -> None:
    driver = EngineDriver(batch=8)
    first = driver.submit("first", list(range(24)), max_tokens=1)
    second = driver.submit("second", list(range(24)), max_tokens=1)
    driver.run()
    computed = sum(len(chunk.token_ids) for plan in driver.runner.plans for chunk in plan.chunks)
    assert computed < 24 + 12
    assert first.token_ids == second.token_ids == driver.expected(first.request)


def test_equal_prompts_of_two_tenants_share_no_block() -> None:
    driver = EngineDriver()
    driver.submit("one", PROMPT, session="s", tenant=b"one")
    driver.submit("two", PROMPT, session="t", tenant=b"two")
    driver.run()
    three = driver.submit("three", PROMPT, tenant=b"three")
    driver.run()
    blocks = [set(parked.blocks) for parked in driver.engine._cache.parked]
    assert len(blocks) == 2
    assert not blocks[0] & blocks[1]
    assert three.cached_tokens == 0


def test_a_session_name_used_by_another_tenant_finds_nothing() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", [1], tenant=b"one", max_tokens=3)
    stranger = driver.submit("x", [*log, 1], session="s", tenant=b"two")
    driver.run()
    assert stranger.cached_tokens == 0


def test_evict_frees_what_nobody_else_holds_and_is_answered() -> None:
    driver = EngineDriver()
    one_step(driver, "s", PROMPT)
    one_step(driver, "t", PROMPT)
    driver.send(Evict("s"))
    driver.run()
    assert driver.dropped == [("s", 13)]
    assert driver.engine.stats.blocks_cached == 4
    driver.send(Evict("t"))
    driver.send(Evict("t"))
    driver.run()
    assert driver.dropped == [("s", 13), ("t", 0)]
    assert driver.engine.stats.blocks_cached == 0


def test_pressure_takes_the_least_recently_used_session_from_its_end() -> None:
    driver = EngineDriver(blocks=9, context=32)
    for session, ids in (("old", [1] * 14), ("new", [2] * 14)):
        one_step(driver, session, ids, max_tokens=2)
        driver.now += 1.0
    assert driver.resident == {"old": 15, "new": 15}
    driver.submit("r", [3] * 8, max_tokens=1)
    driver.run()
    assert driver.resident == {"old": 12, "new": 15}


def test_pressure_takes_an_old_session_before_younger_blocks_of_one_shots() -> None:
    driver = EngineDriver(blocks=9, context=32)
    one_step(driver, "old", [1] * 14, max_tokens=2)
    driver.now += 1.0
    driver.submit("one-shot", [2] * 17, max_tokens=1)
    driver.run()
    driver.submit("r", [3] * 8, max_tokens=1)
    driver.run()
    assert driver.resident == {"old": 12}
    again = driver.submit("again", [2] * 17, max_tokens=1)
    driver.run()
    assert again.cached_tokens == 16


def test_pressure_spares_held_sessions_until_the_hold_expires() -> None:
    driver = EngineDriver(blocks=9, context=32)
    for session, ids in (("old", [1] * 14), ("new", [2] * 14)):
        one_step(driver, session, ids, max_tokens=2)
        driver.now += 1.0
    driver.send(Hold("old", 10.0))
    assert driver.engine.stats.held == 1
    driver.submit("r", [3] * 8, max_tokens=1)
    driver.run()
    assert driver.resident == {"old": 15, "new": 12}
    driver.now += 10.0
    assert driver.engine.stats.held == 0
    driver.submit("q", [4] * 12, max_tokens=1)
    driver.run()
    assert driver.resident["new"] == 12
    assert driver.resident.get("old", 0) < 15


def test_pressure_spares_a_session_whose_request_waits() -> None:
    driver = EngineDriver(blocks=9, context=32, running=1)
    log = one_step(driver, "old", [1] * 14, max_tokens=2)
    driver.now += 1.0
    one_step(driver, "new", [2] * 14, max_tokens=2)
    driver.submit("blocker", [3], max_tokens=6)
    driver.iterate()
    waiting = driver.submit("waiting", [*log, 4], session="old", max_tokens=1)
    driver.run()
    assert driver.resident["new"] < 15
    assert waiting.cached_tokens == 15


def test_a_session_that_lost_everything_while_it_ran_is_reported_dropped() -> None:
    driver = EngineDriver(blocks=8, context=32, batch=32)
    log = one_step(driver, "s", [2] * 7, max_tokens=2)
    hog = driver.submit("hog", [1] * 15, max_tokens=16, priority=0)
    driver.submit("next", [*log, 1], session="s", max_tokens=20, priority=1)
    while len(hog.token_ids) < 15:
        driver.iterate()
    assert driver.engine.stats.preemptions == 1
    driver.send(Cancel("next"))
    driver.run()
    assert driver.resident == {}
    assert driver.dropped == [("s", 8)]


def test_the_next_step_ends_the_hold() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT)
    driver.send(Hold("s", 100.0))
    assert driver.engine.stats.held == 1
    driver.submit("next", [*log, 1], session="s")
    assert driver.engine.stats.held == 0


def test_a_hold_of_unknown_length_spares_too() -> None:
    driver = EngineDriver()
    one_step(driver, "s", PROMPT)
    driver.send(Hold("s", 0.0))
    assert driver.engine.stats.held == 1


def test_an_attempt_that_ends_after_a_later_one_does_not_replace_it() -> None:
    driver = EngineDriver()
    driver.submit("orphan", PROMPT, session="s", max_tokens=40)
    driver.iterate()
    later = driver.submit("later", PROMPT, session="s", max_tokens=6, seed=1)
    while later.stop is None:
        driver.iterate()
    log = [*PROMPT, *later.token_ids]
    driver.send(Cancel("orphan"))
    driver.run()
    assert driver.resident == {"s": len(log) - 1}
    again = driver.submit("again", [*log, 1], session="s")
    driver.run()
    assert again.cached_tokens == len(log) - 1


def test_a_preempted_request_that_is_cancelled_parks_what_is_left_of_it() -> None:
    driver = EngineDriver(blocks=8, context=32, batch=32)
    driver.submit("first", [1] * 15, max_tokens=10, priority=0)
    driver.submit("second", [2] * 15, max_tokens=10, session="s", priority=1)
    while not driver.engine.stats.preemptions:
        driver.iterate()
    driver.send(Cancel("second"))
    driver.iterate()
    assert driver.resident == {"s": 12}


def test_an_idle_engine_finds_a_fault_in_its_books() -> None:
    driver = EngineDriver()
    one_step(driver, "s", PROMPT)
    driver.engine._cache.pool._free.pop()
    driver.engine.handle(Hold("s", 1.0))
    driver.engine.iterate()
    driver.now += 10.0
    driver.engine.handle(Hold("s", 1.0))
    with pytest.raises(AssertionError, match="free list"):
        driver.engine.iterate()


def test_blocks_of_a_log_that_was_left_go_from_its_end() -> None:
    driver = EngineDriver(blocks=8, context=32)
    one_step(driver, "s", [1] * 16, max_tokens=1)
    one_step(driver, "s", [2] * 8, max_tokens=1)
    driver.submit("r", [3] * 13, max_tokens=1)
    driver.run()
    again = driver.submit("again", [1] * 17, max_tokens=1)
    driver.run()
    assert again.cached_tokens == 8


def test_a_request_that_never_ran_looked_nothing_up() -> None:
    driver = EngineDriver()
    driver.submit("r", PROMPT)
    driver.send(Cancel("r"))
    driver.run()
    assert driver.engine.stats.lookup_tokens == 0


def test_hit_ratio_counts_each_context_once() -> None:
    driver = EngineDriver()
    log = one_step(driver, "s", PROMPT)
    one_step(driver, "s", [*log, 1])
    stats = driver.engine.stats
    assert (stats.lookup_tokens, stats.hit_tokens) == (len(PROMPT) + len(log) + 1, len(log) - 1)
