"""Tokens that a grammar forces come with the one drawn before them, and are computed with it; nothing else changes."""

import pytest

from engine_driver import Answer, EngineDriver
from roost_worker.engine.messages import Cancel, Finish, StopReason

PROMPT = [1, 2, 3]
FORCE = "force:9"
"""After a drawn token t, the fake runner's grammar forces t % 10 more."""


def runs(answer: Answer) -> list[int]:
    """How many tokens came with each draw."""
    return [len(output.token_ids) for output in answer.outputs]


def chunks(driver: EngineDriver) -> list[list[int]]:
    """Per plan: tokens of each chunk."""
    return [[len(chunk.token_ids) for chunk in plan.chunks] for plan in driver.runner.plans]


def generated(grammar: str | None = FORCE, **sampling: object) -> tuple[EngineDriver, Answer]:
    """A request that ran alone, in blocks of four tokens."""
    driver = EngineDriver(batch=32)
    answer = driver.submit("r", PROMPT, grammar=grammar, session="s", **{"max_tokens": 30, **sampling})
    driver.run()
    return driver, answer


def test_what_is_forced_after_a_draw_is_one_chunk_with_the_next_draw() -> None:
    driver, answer = generated()
    assert max(runs(answer)) > 2 * 4, "no run needs several blocks at once"
    assert chunks(driver) == [[tokens] for tokens in (len(PROMPT), *runs(answer)[:-1])]
    assert all(chunk.sample for plan in driver.runner.plans for chunk in plan.chunks)


def test_the_output_is_that_of_single_draws_in_fewer_batches() -> None:
    (single, expected), (driver, answer) = generated(None), generated()
    assert answer.token_ids == expected.token_ids
    assert single.engine.stats.batches == 30
    assert driver.engine.stats.batches == len(runs(answer)) < 10
    assert driver.engine.stats.generated_tokens == single.engine.stats.generated_tokens == 30


def test_the_decode_rate_counts_forced_tokens() -> None:
    driver = EngineDriver()
    answers = [driver.submit(name, [9] * 5, grammar=FORCE, max_tokens=11) for name in ("a", "b")]
    driver.run()
    assert [runs(answer) for answer in answers] == [[6, 5], [6, 5]]
    assert driver.engine.stats.decode_rate == 5 / driver.runner.seconds


@pytest.mark.parametrize("max_tokens", range(1, 30))
def test_max_tokens_may_end_an_output_among_forced_tokens(max_tokens: int) -> None:
    driver, answer = generated(max_tokens=max_tokens)
    assert answer.token_ids == driver.expected(answer.request)
    assert (len(answer.token_ids), answer.stop) == (max_tokens, StopReason.LENGTH)


def test_a_stop_id_ends_an_output_among_forced_tokens() -> None:
    _, whole = generated()
    assert runs(whole)[0] > 3
    driver, answer = generated(stop_token_ids=frozenset(whole.token_ids[1:3]), min_tokens=2)
    assert (answer.token_ids, answer.stop) == (whole.token_ids[:3], StopReason.STOP)
    assert driver.resident == {"s": len(PROMPT)}


def test_the_context_ends_an_output_among_forced_tokens() -> None:
    driver = EngineDriver(context=len(PROMPT) + 3)
    answer = driver.submit("r", PROMPT, grammar=FORCE, max_tokens=30)
    driver.run()
    assert (len(answer.token_ids), answer.stop) == (3, StopReason.LENGTH)


@pytest.mark.parametrize("delivered", range(30))
def test_an_attempt_that_begins_again_among_forced_tokens_goes_on_alike(delivered: int) -> None:
    _, whole = generated()
    driver = EngineDriver()
    rest = driver.submit("r", PROMPT, output=whole.token_ids[:delivered], grammar=FORCE, max_tokens=30)
    driver.run()
    assert rest.token_ids == whole.token_ids[delivered:]


def test_forced_tokens_get_half_of_what_a_batch_has_beside_other_draws() -> None:
    driver = EngineDriver(batch=9)
    forced = driver.submit("forced", [9] * 5, grammar=FORCE, max_tokens=9)
    free = driver.submit("free", [8] * 3, max_tokens=5)
    driver.iterate()
    assert (runs(forced), runs(free)) == ([6], [1])
    prompt = driver.submit("prompt", [3] * 12, max_tokens=1)
    driver.run()
    assert chunks(driver) == [[5, 3], [4, 1, 4], [2, 1, 6], [1, 2], [1]]
    assert [[chunk.sample for chunk in plan.chunks] for plan in driver.runner.plans[1:3]] == [
        [False, True, False],
        [True, True, False],
    ]
    for answer in (forced, free, prompt):
        assert answer.token_ids == driver.expected(answer.request)


def test_the_first_in_order_gets_its_forced_tokens_first() -> None:
    driver = EngineDriver(batch=9)
    answers = [driver.submit(name, [9] * 4, grammar=FORCE, max_tokens=14) for name in ("first", "last")]
    driver.iterate()
    assert list(map(runs, answers)) == [[4], [4]]
    driver.run()
    assert chunks(driver)[1:5] == [[4, 1], [4, 1], [4, 1], [1, 1]]
    for answer in answers:
        assert answer.token_ids == driver.expected(answer.request)


def test_a_batch_without_room_takes_forced_tokens_one_by_one() -> None:
    driver = EngineDriver(batch=2, running=2)
    answers = [driver.submit(name, [9], grammar=FORCE, max_tokens=12) for name in ("a", "b")]
    driver.run()
    assert set(map(tuple, chunks(driver))) == {(1, 1)}
    for answer in answers:
        assert answer.token_ids == driver.expected(answer.request)


@pytest.mark.parametrize("blocks", range(5, 12))
def test_blocks_for_several_forced_tokens_come_from_what_is_cached(blocks: int) -> None:
    driver = EngineDriver(blocks=blocks, context=20)
    driver.submit("earlier", [4] * 18, max_tokens=1)
    driver.run()
    answer = driver.submit("r", [9] * 4, grammar=FORCE, max_tokens=14)
    driver.run()
    assert runs(answer) == [4, 9, 1]
    assert driver.engine.stats.preemptions == 0
    assert answer.token_ids == driver.expected(answer.request)


@pytest.mark.parametrize("blocks", range(6, 8))
def test_forced_tokens_without_room_preempt_the_last_sequence(blocks: int) -> None:
    driver = EngineDriver(blocks=blocks, context=20)
    first = driver.submit("first", [9] * 4, grammar=FORCE, max_tokens=14)
    last = driver.submit("last", [9] * 5, grammar=FORCE, max_tokens=14)
    driver.run()
    returned = [new for plan in driver.runner.plans for new in plan.new_slots if new.output]
    assert len(returned) == driver.engine.stats.preemptions > 0
    assert {tuple(new.context) for new in returned} == {(9,) * 5}
    for answer in (first, last):
        assert answer.token_ids == driver.expected(answer.request)


def test_a_cancelled_request_leaves_no_forced_tokens_behind() -> None:
    driver = EngineDriver()
    driver.submit("r", PROMPT, grammar=FORCE, session="s", max_tokens=30)
    driver.iterate()
    driver.send(Cancel("r"))
    driver.run()
    assert driver.resident == {"s": len(PROMPT)}
    again = driver.submit("again", PROMPT, grammar=FORCE, session="s", max_tokens=30)
    driver.run()
    assert again.token_ids == driver.expected(again.request)


def test_an_output_finished_among_forced_tokens_keeps_what_came_before() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, grammar=FORCE, session="s", max_tokens=30)
    driver.iterate()
    driver.iterate()
    first, _ = runs(answer)
    assert first > 2
    driver.send(Finish("r", first - 1))
    driver.run()
    log = [*PROMPT, *answer.token_ids[: first - 1]]
    assert (answer.stop, driver.resident) == (StopReason.STOP, {"s": len(log) - 1})
    after = driver.submit("after", [*log, 4], session="s")
    driver.run()
    assert after.cached_tokens == len(log) - 1
    assert after.token_ids == driver.expected(after.request)
