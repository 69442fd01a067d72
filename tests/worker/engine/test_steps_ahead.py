"""Steps that are begun before the tokens of the one before are known change nothing but the time that a step takes."""

from itertools import pairwise

import pytest

from engine_driver import Answer, EngineDriver
from paged_fake_runner import COPYING
from roost_worker.engine import drafting
from roost_worker.engine.drafter import draw_cost
from roost_worker.engine.messages import Cancel, EngineMessage, Evict, Finish, Hold, StopReason

PROMPT = [1, 2, 3, 4, 5, 6, 7]
OUTPUT = 12


def driver_of(*, ahead: bool, **sizes: int) -> EngineDriver:
    return EngineDriver(**{"blocks": 40, "context": 64, "batch": 32, **sizes}, ahead=ahead)


def generated(*, ahead: bool, sizes: dict[str, int] | None = None, **sampling: object) -> tuple[EngineDriver, Answer]:
    """A request of a session that ran alone."""
    driver = driver_of(ahead=ahead, **sizes or {})
    answer = driver.submit("r", PROMPT, session="s", **{"max_tokens": OUTPUT, **sampling})  # type: ignore[arg-type]
    driver.run()
    return driver, answer


def ahead_of(driver: EngineDriver) -> list[bool]:
    """Per plan: whether it was begun ahead."""
    return [any(chunk.awaits_draw for chunk in plan.chunks) for plan in driver.runner.plans]


def test_all_steps_but_the_first_are_begun_ahead() -> None:
    (plain, expected), (driver, answer) = generated(ahead=False), generated(ahead=True)
    assert ahead_of(driver) == [False, False, *[True] * (OUTPUT - 2)]
    assert not any(ahead_of(plain))
    assert answer.outputs == expected.outputs
    assert (driver.resident, driver.engine.stats) == (plain.resident, plain.engine.stats)


@pytest.mark.parametrize("count", range(1, OUTPUT))
@pytest.mark.parametrize("block_tokens", [1, 4])
def test_an_output_that_a_stop_id_ends_leaves_the_same_cache(count: int, block_tokens: int) -> None:
    """The step after it is computed in vain."""
    whole = generated(ahead=False)[1].token_ids
    stop = {"stop_token_ids": frozenset([whole[count]]), "min_tokens": count}
    sizes = {"block_tokens": block_tokens, "blocks": 160 // block_tokens}
    (plain, expected), (driver, answer) = (generated(ahead=ahead, sizes=sizes, **stop) for ahead in (False, True))
    assert (answer.token_ids, answer.stop) == (expected.token_ids, StopReason.STOP)
    assert len(driver.runner.plans) - len(plain.runner.plans) == (0 if count == OUTPUT - 1 else 1)
    assert driver.engine.stats.blocks_cached == plain.engine.stats.blocks_cached
    after = [each.submit("after", [*PROMPT, *answer.token_ids, 4, 4], session="s") for each in (plain, driver)]
    for each in (plain, driver):
        each.run()
    assert after[0].outputs == after[1].outputs


def together(*, ahead: bool, messages: dict[int, EngineMessage], **sizes: int) -> tuple[EngineDriver, list[Answer]]:
    """Three requests that end at different times, and messages that come after so many iterations."""
    driver = driver_of(ahead=ahead, **sizes)
    answers = [
        driver.submit(f"r{index}", [*PROMPT, index], session=f"s{index}", max_tokens=6 + 3 * index, seed=index)
        for index in range(3)
    ]
    for iteration in range(30):
        if iteration in messages:
            driver.send(messages[iteration])
        driver.iterate()
    driver.run()
    return driver, answers


def test_sequences_leave_steps_one_by_one() -> None:
    (_, expected), (driver, answers) = together(ahead=False, messages={}), together(ahead=True, messages={})
    assert [answer.outputs for answer in answers] == [answer.outputs for answer in expected]
    rows = [len(plan.chunks) for plan in driver.runner.plans if plan.chunks[0].awaits_draw]
    assert set(rows) == {1, 2, 3}
    assert all(earlier >= later for earlier, later in pairwise(rows))


def test_a_sequence_that_ends_early_does_not_hold_up_the_others() -> None:
    whole = generated(ahead=False)[1].token_ids
    driver = driver_of(ahead=True)
    short = driver.submit("short", PROMPT, max_tokens=OUTPUT, stop_token_ids=frozenset(whole[3:4]), min_tokens=3)
    others = [driver.submit(f"r{index}", [*PROMPT, index], max_tokens=OUTPUT) for index in range(2)]
    driver.run()
    assert short.token_ids == whole[:4]
    assert [answer.token_ids for answer in others] == [driver.expected(answer.request) for answer in others]
    assert ahead_of(driver) == [False, False, *[True] * (OUTPUT - 2)]


@pytest.mark.parametrize("iteration", range(1, 8))
@pytest.mark.parametrize("message", [Cancel("r1"), Finish("r1", 2), Evict("s2"), Hold("s0", 5.0)], ids=repr)
def test_a_message_may_end_what_is_in_a_step_under_way(message: EngineMessage, iteration: int) -> None:
    """The driver checks blocks and memory after the message."""
    plain, expected = together(ahead=False, messages={iteration: message})
    driver, answers = together(ahead=True, messages={iteration: message})
    for answer, other in zip(answers, expected, strict=True):
        assert (answer.token_ids, answer.stop) == (other.token_ids, other.stop)
    assert driver.resident == plain.resident
    assert any(ahead_of(driver))


def test_a_request_that_waits_is_not_kept_waiting() -> None:
    driver = driver_of(ahead=True)
    first = driver.submit("first", PROMPT, max_tokens=OUTPUT)
    for _ in range(4):
        driver.iterate()
    second = driver.submit("second", PROMPT, max_tokens=3)
    driver.iterate()
    driver.iterate()
    assert second.token_ids, "the batch after the step under way has its prompt"
    driver.run()
    for answer in (first, second):
        assert answer.token_ids == driver.expected(answer.request)


def test_steps_are_begun_ahead_while_what_waits_has_no_slot() -> None:
    driver = driver_of(ahead=True, running=2)
    answers = [driver.submit(f"r{most}", [*PROMPT, most], max_tokens=most) for most in (9, OUTPUT, 3)]
    driver.run()
    for answer in answers:
        assert answer.token_ids == driver.expected(answer.request)
    begun = [len(plan.new_slots) for plan in driver.runner.plans]
    assert begun == [2, *[0] * 9, 1, *[0] * (len(begun) - 11)], "a step was under way when the first ended"
    assert ahead_of(driver)[:10] == [False, False, *[True] * 8]


@pytest.mark.parametrize("special", [{"grammar": "tokens:9"}, {"logprobs": 1}], ids=repr)
def test_draws_that_need_the_tokens_before_them_are_not_begun_ahead(special: dict[str, object]) -> None:
    driver = driver_of(ahead=True)
    answer = driver.submit("special", PROMPT, max_tokens=8, **special)  # type: ignore[arg-type]
    plain = driver.submit("plain", [5, *PROMPT], max_tokens=OUTPUT)
    driver.run()
    assert (answer.token_ids, plain.token_ids) == (driver.expected(answer.request), driver.expected(plain.request))
    alone = [len(plan.chunks) == 1 for plan in driver.runner.plans]
    assert [index for index, is_ahead in enumerate(ahead_of(driver)) if is_ahead] == list(range(9, 12))
    assert all(alone[9:])


def test_sequences_that_guess_are_not_begun_ahead() -> None:
    driver = driver_of(ahead=True, drafts=4)
    guessing = driver.submit("guessing", PROMPT * 3, seed=COPYING, max_tokens=OUTPUT)
    driver.run()
    assert not any(ahead_of(driver))
    plain = driver.submit("plain", PROMPT, max_tokens=OUTPUT, prompt_lookup=False)
    driver.run()
    assert sum(ahead_of(driver)) == OUTPUT - 2
    for answer in (guessing, plain):
        assert answer.token_ids == driver.expected(answer.request)


def test_what_guesses_may_lose_grows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with what each draw took, which depends on how many rows the draw's own batch had."""
    rows: list[int] = []

    def recorded(count: int) -> float:
        rows.append(count)
        return draw_cost(count)

    monkeypatch.setattr(drafting, "draw_cost", recorded)
    seen: list[list[int]] = []
    for ahead in (False, True):
        driver = driver_of(ahead=ahead, drafts=4)
        for index in range(3):
            driver.submit(f"r{index}", [*PROMPT, index], max_tokens=6 + 3 * index, prompt_lookup=False)
        driver.run()
        assert any(ahead_of(driver)) == ahead
        seen.append(rows[:])
        rows.clear()
    assert seen[0] == seen[1]
    assert set(seen[0]) == {1, 2, 3}


def test_no_block_is_evicted_for_a_step_ahead() -> None:
    """A step that needs a block which is not free is scheduled when the tokens are known, as ever."""
    plain, driver = (driver_of(ahead=ahead, blocks=6) for ahead in (False, True))
    for each in (plain, driver):
        each.submit("parked", PROMPT, session="parked", max_tokens=1)
        each.run()
        answer = each.submit("r", [9, *PROMPT], max_tokens=13)
        each.run()
        assert answer.token_ids == each.expected(answer.request)
    assert driver.dropped == plain.dropped
    steps = ahead_of(driver)
    assert any(steps)
    assert not all(steps[3:])
