"""Guesses that are right come together with the draw; nothing else changes, and wrong ones leave nothing behind."""

import pytest

from engine_driver import Answer, EngineDriver
from paged_fake_runner import COPYING
from roost_worker.engine.drafting import Drafting
from roost_worker.engine.messages import Cancel, Finish, StopReason
from roost_worker.engine.sequence import Sequence

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 3
OUTPUT = 60


def generated(drafts: int = 16, **fields: object) -> tuple[EngineDriver, Answer]:
    """A request that ran alone, in blocks of four tokens."""
    driver = EngineDriver(drafts=drafts, blocks=32, context=128, batch=64)
    answer = driver.submit("r", PROMPT, session="s", **{"seed": COPYING, "max_tokens": OUTPUT, **fields})  # type: ignore[arg-type]
    driver.run()
    return driver, answer


def drafts(driver: EngineDriver) -> list[list[int]]:
    """Per plan: guesses in each chunk."""
    return [[chunk.drafts for chunk in plan.chunks] for plan in driver.runner.plans]


def test_the_output_is_that_of_single_draws_in_fewer_batches() -> None:
    (single, expected), (driver, answer) = generated(0), generated()
    stats = driver.engine.stats
    assert answer.token_ids == expected.token_ids
    assert (answer.stop, driver.resident) == (expected.stop, single.resident)
    assert single.engine.stats.batches == OUTPUT
    assert stats.batches == OUTPUT - stats.right_draft_tokens < 0.6 * OUTPUT
    assert stats.draft_tokens == sum(map(sum, drafts(driver))) > stats.right_draft_tokens
    assert stats.generated_tokens == OUTPUT
    assert not any(map(sum, drafts(single)))


@pytest.mark.parametrize("max_tokens", range(1, 40))
def test_max_tokens_may_end_an_output_among_guesses(max_tokens: int) -> None:
    driver, answer = generated(max_tokens=max_tokens)
    assert answer.token_ids == driver.expected(answer.request)
    assert (len(answer.token_ids), answer.stop) == (max_tokens, StopReason.LENGTH)


@pytest.mark.parametrize("count", range(OUTPUT))
def test_a_stop_id_among_guesses_leaves_the_same_cache(count: int) -> None:
    whole = generated()[1].token_ids
    stop = {"stop_token_ids": frozenset([whole[count]]), "min_tokens": count}
    (single, expected), (driver, answer) = generated(0, **stop), generated(**stop)
    assert (answer.token_ids, answer.stop) == (expected.token_ids, StopReason.STOP)
    assert driver.engine.stats.blocks_cached == single.engine.stats.blocks_cached
    log = [*PROMPT, *answer.token_ids]
    after = [each.submit("after", [*log, 4, 4, 4], session="s") for each in (single, driver)]
    for each in (single, driver):
        each.run()
    assert after[0].cached_tokens == after[1].cached_tokens == len(log) - 1
    assert after[0].token_ids == after[1].token_ids


def test_the_context_ends_an_output_among_guesses() -> None:
    for context in range(len(PROMPT) + 1, len(PROMPT) + 20):
        driver = EngineDriver(drafts=16, context=context, batch=64)
        answer = driver.submit("r", PROMPT, seed=COPYING, max_tokens=OUTPUT)
        driver.run()
        assert answer.token_ids == driver.expected(answer.request)


@pytest.mark.parametrize("delivered", range(0, OUTPUT, 3))
def test_an_attempt_that_begins_again_among_guesses_goes_on_alike(delivered: int) -> None:
    whole = generated()[1].token_ids
    _, rest = generated(output=whole[:delivered])
    assert rest.token_ids == whole[delivered:]


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_request_that_ends_among_guesses_leaves_none_behind(steps: int) -> None:
    for message in (Cancel("r"), Finish("r", 2)):
        driver = EngineDriver(drafts=16, blocks=32, context=128, batch=64)
        answer = driver.submit("r", PROMPT, session="s", seed=COPYING, max_tokens=OUTPUT)
        for _ in range(steps):
            driver.iterate()
        driver.send(message)
        driver.run()
        kept = [*PROMPT, *answer.token_ids[:2]]
        assert driver.resident == {"s": len(PROMPT) if isinstance(message, Cancel) else len(kept) - 1}
        after = driver.submit("after", [*kept, 1, 2, 3], session="s", seed=COPYING)
        driver.run()
        assert after.token_ids == driver.expected(after.request)


def test_a_grammar_may_end_or_force_an_output_among_guesses() -> None:
    for grammar, most in (("tokens:17", 17), ("force:9", OUTPUT)):
        driver, answer = generated(grammar=grammar)
        assert answer.token_ids == driver.expected(answer.request)[:most]
        assert driver.engine.stats.right_draft_tokens > 0


def test_a_replay_that_completes_its_grammar_gets_nothing_from_guesses() -> None:
    replayed = generated(max_tokens=3)[1].token_ids
    driver = EngineDriver(drafts=16, blocks=32, context=128, batch=len(PROMPT) + 2)
    answer = driver.submit("r", PROMPT, output=replayed, seed=COPYING, grammar="tokens:3", max_tokens=OUTPUT)
    driver.run()
    assert sum(map(sum, drafts(driver))) > 0
    assert (answer.token_ids, answer.stop) == ([], StopReason.STOP)


def test_nothing_is_guessed_while_a_prompt_is_computed_or_waits() -> None:
    driver = EngineDriver(drafts=16, blocks=32, context=128, batch=32, running=2)
    first, second = (driver.submit(f"{most}", PROMPT, seed=COPYING, max_tokens=most) for most in (20, OUTPUT))
    third = driver.submit("c", [5] * 3, seed=COPYING, max_tokens=1)
    driver.run()
    admitted = [index for index, plan in enumerate(driver.runner.plans) if plan.new_slots]
    guessed = [index for index, sizes in enumerate(drafts(driver)) if sum(sizes)]
    assert len(admitted) > 1
    assert guessed[0] > admitted[-1]
    for answer in (first, second, third):
        assert answer.token_ids == driver.expected(answer.request)


def test_guesses_get_what_a_batch_has_left() -> None:
    driver = EngineDriver(drafts=16, blocks=64, context=128, batch=7, running=3)
    answers = [driver.submit(name, PROMPT, seed=COPYING, max_tokens=20) for name in ("a", "b", "c")]
    driver.run()
    together = [sizes for sizes in drafts(driver) if len(sizes) == 3 and any(sizes)]
    assert [4, 0, 0] in together
    for answer in answers:
        assert answer.token_ids == driver.expected(answer.request)


def test_nothing_is_guessed_without_a_block_for_it() -> None:
    for blocks in range(16, 28):
        driver = EngineDriver(drafts=16, blocks=blocks, context=64, batch=64)
        answers = [driver.submit(name, PROMPT, seed=COPYING, max_tokens=OUTPUT) for name in ("a", "b")]
        driver.run()
        assert driver.engine.stats.right_draft_tokens > 0
        for answer in answers:
            assert answer.token_ids == driver.expected(answer.request)


def test_all_that_is_guessed_has_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is guessed counts against what guesses may lose, so that none may be thrown away."""
    guessed: list[int] = []

    def guesses(_: Drafting, sequence: Sequence, room: int) -> tuple[int, ...]:
        guessed.append(min(room, 5, sequence.tokens_left(64) - 1))
        return (0,) * guessed[-1]

    monkeypatch.setattr(Drafting, "draft", guesses)
    driver = EngineDriver(drafts=16, blocks=16, context=64, batch=64)
    answers = [driver.submit(name, PROMPT, seed=COPYING, max_tokens=OUTPUT) for name in ("a", "b")]
    driver.run()
    assert sum(guessed) == driver.engine.stats.draft_tokens
    assert {0, 1, 2, 3, 4, 5} == set(guessed)
    for answer in answers:
        assert answer.token_ids == driver.expected(answer.request)


def test_log_probabilities_are_reported_of_single_draws() -> None:
    driver, answer = generated(logprobs=1)
    assert driver.engine.stats.draft_tokens == 0
    assert [len(output.logprobs) for output in answer.outputs] == [1] * OUTPUT
