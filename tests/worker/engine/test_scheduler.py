"""What runs when: mixed batches, order, preemption."""

from engine_driver import EngineDriver


def rows(driver: EngineDriver) -> list[list[tuple[int, int]]]:
    """Per plan: (start, tokens) of each chunk."""
    return [[(chunk.start, len(chunk.token_ids)) for chunk in plan.chunks] for plan in driver.runner.plans]


def test_decode_comes_first_and_prefill_fills_the_batch() -> None:
    driver = EngineDriver(batch=8)
    driver.submit("short", [1, 2], max_tokens=3)
    driver.iterate()
    driver.submit("long", [3] * 18, max_tokens=1)
    driver.run()
    assert rows(driver) == [[(0, 2)], [(2, 1), (0, 7)], [(3, 1), (7, 7)], [(14, 4)]]
    assert [[chunk.sample for chunk in plan.chunks] for plan in driver.runner.plans] == [
        [True],
        [True, False],
        [True, False],
        [True],
    ]


def test_priority_then_first_come_first_served() -> None:
    driver = EngineDriver(running=1)
    for name, priority in (("first", 1), ("second", 1), ("urgent", 0), ("late", 2)):
        driver.submit(name, [len(name)], max_tokens=1, priority=priority)
    order = []
    while outputs := driver.iterate():
        order += [output.request_id for output in outputs.outputs]
    assert order == ["urgent", "first", "second", "late"]


def test_nobody_overtakes_the_first_that_waits() -> None:
    driver = EngineDriver(blocks=8, context=32, batch=32)
    driver.submit("running", [1] * 16, max_tokens=4)
    driver.iterate()
    driver.submit("big", [2] * 28, max_tokens=1)
    driver.submit("small", [3], max_tokens=1)
    driver.iterate()
    assert driver.answers["small"].outputs == []
    driver.run()
    assert driver.answers["small"].stop is not None


def test_running_out_of_blocks_preempts_the_last_of_the_least_priority() -> None:
    driver = EngineDriver(blocks=6, context=24, batch=32)
    first = driver.submit("first", [2] * 7, max_tokens=12, priority=1)
    last = driver.submit("last", [3] * 7, max_tokens=12, priority=1)
    driver.iterate()
    important = driver.submit("important", [1] * 7, max_tokens=12, priority=0)
    driver.run()
    assert driver.engine.stats.preemptions > 0
    for answer in (important, first, last):
        assert answer.token_ids == driver.expected(answer.request)
    preempted = {tuple(new.context) for plan in driver.runner.plans for new in plan.new_slots if new.output}
    assert (1,) * 7 not in preempted
    assert (3,) * 7 in preempted


def test_a_preempted_sequence_returns_with_its_output_and_finds_its_full_blocks() -> None:
    driver = EngineDriver(blocks=5, context=20, batch=32)
    driver.submit("first", [1] * 7, max_tokens=10)
    second = driver.submit("second", [2] * 7, max_tokens=10)
    driver.run()
    returned = [new for plan in driver.runner.plans for new in plan.new_slots if new.output]
    assert driver.engine.stats.preemptions == len(returned) == 1
    assert list(returned[0].context) == [2] * 7
    assert list(returned[0].output) == second.token_ids[: len(returned[0].output)]
    assert second.cached_tokens == 0


def test_a_request_preempted_before_its_first_output_tells_of_its_first_admission() -> None:
    driver = EngineDriver(blocks=8, context=32, batch=4)
    driver.submit("hog", [1] * 3, max_tokens=10, priority=0)
    driver.iterate()
    long = driver.submit("long", [2] * 24, max_tokens=2, priority=1)
    while not driver.engine.stats.preemptions:
        driver.iterate()
    assert long.outputs == []
    driver.now += 5.0
    driver.run()
    assert (long.cached_tokens, long.outputs[0].queue_seconds) == (0, 0.0)
    assert long.token_ids == driver.expected(long.request)


def test_slots_are_freed_and_never_exceed_max_running() -> None:
    driver = EngineDriver(running=2)
    for index in range(7):
        driver.submit(f"r{index}", [index], max_tokens=1 + index % 3)
    driver.run()
    slots = {chunk.slot for plan in driver.runner.plans for chunk in plan.chunks}
    assert slots == {0, 1}
    assert set(driver.runner.slots) <= {0, 1}


def test_rates_are_known_after_work() -> None:
    driver = EngineDriver()
    assert (driver.engine.stats.prefill_rate, driver.engine.stats.decode_rate) == (0.0, 0.0)
    driver.submit("r", [1] * 10, max_tokens=4)
    driver.run()
    stats = driver.engine.stats
    assert (stats.prefill_rate, stats.decode_rate) == (1000.0, 100.0)
    assert (stats.prefilled_tokens, stats.generated_tokens, stats.batches) == (10, 4, 4)
