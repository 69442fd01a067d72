"""How requests begin and end: stops, limits, replays, refusals, grammars, cancel and finish."""

from array import array
from concurrent.futures import Future
from dataclasses import replace

import pytest

from engine_driver import EngineDriver, InlineExecutor
from paged_fake_runner import VOCAB, next_token, reference
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Cancel, Finish, SamplingParams, StopReason, Submit

PROMPT = list(range(10))


def generated(count: int, prompt: list[int] = PROMPT) -> list[int]:
    """The first output tokens of the fake model."""
    return reference(prompt, len(prompt), SamplingParams(max_tokens=count), 1000)


def test_output_ends_at_max_tokens() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, max_tokens=7)
    driver.run()
    assert (answer.token_ids, answer.stop) == (generated(7), StopReason.LENGTH)


def test_output_ends_with_a_stop_id_but_not_before_min_tokens() -> None:
    driver = EngineDriver()
    third = generated(3)[2]
    assert third not in generated(2)
    early = driver.submit("early", PROMPT, max_tokens=9, stop_token_ids=frozenset({third}))
    late = driver.submit("late", PROMPT, max_tokens=5, stop_token_ids=frozenset({third}), min_tokens=3)
    driver.run()
    assert (early.token_ids, early.stop) == (generated(3), StopReason.STOP)
    assert (late.token_ids, late.stop) == (generated(5), StopReason.LENGTH)


def test_output_ends_with_the_context() -> None:
    driver = EngineDriver(context=16)
    answer = driver.submit("r", PROMPT, max_tokens=100)
    driver.run()
    assert (len(answer.token_ids), answer.stop) == (6, StopReason.LENGTH)


def test_context_is_no_longer_than_memory() -> None:
    driver = EngineDriver(blocks=4, block_tokens=4, context=64)
    assert driver.engine.info.context_tokens == driver.engine.info.capacity_tokens == 16
    answer = driver.submit("r", PROMPT, max_tokens=100)
    driver.run()
    assert (len(answer.token_ids), answer.stop) == (6, StopReason.LENGTH)


@pytest.mark.parametrize("length", [16, 17, 400])
def test_prompt_as_long_as_the_context_is_refused(length: int) -> None:
    driver = EngineDriver(context=16)
    answer = driver.submit("r", [1] * length)
    driver.run()
    assert answer.stop is StopReason.FAILED
    assert f"prompt of {length} tokens" in answer.error
    assert "contextTokens" in answer.error
    assert driver.runner.plans == []


def test_prompt_one_shorter_than_the_context_gets_one_token() -> None:
    driver = EngineDriver(context=16)
    answer = driver.submit("r", [1] * 15)
    driver.run()
    assert (len(answer.token_ids), answer.stop) == (1, StopReason.LENGTH)


@pytest.mark.parametrize("ids", [[VOCAB], [2**32 - 1], [1, VOCAB, 2]])
def test_ids_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    driver = EngineDriver()
    answer = driver.submit("r", ids)
    driver.run()
    assert answer.stop is StopReason.FAILED
    assert f"between 0 and {VOCAB - 1}" in answer.error


@pytest.mark.parametrize("prompt_len", [0, 4, -1])
def test_prompt_len_outside_the_context_is_refused(prompt_len: int) -> None:
    driver = EngineDriver()
    answer = driver.submit("r", [1, 2, 3])
    driver.send(Cancel("r"))
    driver.run()
    answer.outputs.clear()
    driver.send(Submit("r", array("I", [1, 2, 3]), prompt_len, SamplingParams(), b"key"))
    driver.run()
    assert answer.stop is StopReason.FAILED
    assert "prompt_len" in answer.error


@pytest.mark.parametrize("replayed", [1, 3, 6])
def test_replayed_output_is_continued_and_not_generated_again(replayed: int) -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, output=generated(replayed), max_tokens=7)
    driver.run()
    assert answer.token_ids == generated(7)[replayed:]


def test_replayed_output_that_satisfies_a_stop_ends_at_once() -> None:
    driver = EngineDriver(context=16)
    output = generated(3)
    by_length = driver.submit("length", PROMPT, output=output, max_tokens=3)
    by_stop = driver.submit("stop", PROMPT, output=output, max_tokens=9, stop_token_ids=frozenset(output[2:]))
    by_context = driver.submit("context", PROMPT, output=generated(6), max_tokens=9)
    driver.iterate()
    assert [answer.stop for answer in (by_length, by_stop, by_context)] == ["length", "stop", "length"]
    assert driver.runner.plans == []


def test_replayed_output_that_completes_the_grammar_ends_without_a_token() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, output=generated(3), max_tokens=9, grammar="tokens:3")
    driver.run()
    assert (answer.token_ids, answer.stop) == ([], StopReason.STOP)


def test_a_complete_grammar_stops() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, max_tokens=9, grammar="tokens:3")
    driver.run()
    assert (answer.token_ids, answer.stop) == (generated(3), StopReason.STOP)


def test_a_refused_grammar_fails_its_request_alone() -> None:
    driver = EngineDriver()
    refused = driver.submit("refused", PROMPT, grammar="refuse:schema too deep")
    other = driver.submit("other", PROMPT)
    driver.run()
    assert (refused.stop, refused.error, refused.token_ids) == (StopReason.FAILED, "schema too deep", [])
    assert other.stop is StopReason.LENGTH


def test_a_compiler_that_breaks_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenPool(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # the base class is typed by ParamSpec
            future: Future[str] = Future()
            future.set_exception(RuntimeError("panic"))
            return future

    driver = EngineDriver()
    monkeypatch.setattr(driver.engine, "_grammar_pool", BrokenPool())
    broken = driver.submit("broken", PROMPT, grammar="tokens:3")
    other = driver.submit("other", PROMPT)
    driver.run()
    assert broken.stop is StopReason.FAILED
    assert "panic" in broken.error
    assert other.stop is StopReason.LENGTH


def test_a_grammar_that_breaks_fails_its_request_alone() -> None:
    driver = EngineDriver()
    broken = driver.submit("broken", PROMPT, grammar="break:3", max_tokens=9, session="s")
    other = driver.submit("other", PROMPT, max_tokens=9)
    driver.run()
    assert (broken.stop, broken.error, broken.token_ids) == (StopReason.FAILED, "the grammar broke", generated(2))
    assert other.token_ids == generated(9)
    assert driver.resident == {"s": len(PROMPT)}


def test_cancel_frees_the_blocks_before_the_next_step() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, max_tokens=50)
    for _ in range(4):
        driver.iterate()
    assert driver.engine.stats.blocks_in_use > 0
    driver.send(Cancel("r"))
    assert driver.engine.stats.blocks_in_use == 0
    driver.iterate()
    assert answer.stop is StopReason.CANCELLED
    assert answer.token_ids == generated(4)


def test_cancel_keeps_the_prompt_of_a_session_and_forgets_its_output() -> None:
    driver = EngineDriver()
    driver.submit("r", PROMPT, max_tokens=50, session="s")
    for _ in range(6):
        driver.iterate()
    driver.send(Cancel("r"))
    driver.run()
    assert driver.resident == {"s": len(PROMPT)}


def test_cancel_of_a_waiting_request_keeps_what_its_session_has_parked() -> None:
    driver = EngineDriver(running=1)
    first = driver.submit("first", PROMPT, session="s")
    driver.run()
    driver.submit("blocker", [5, 6], max_tokens=20)
    driver.iterate()
    driver.submit("second", [*PROMPT, *first.token_ids, 1], session="s")
    driver.send(Cancel("second"))
    driver.run()
    assert driver.resident == {"s": len(PROMPT) + 3}


def test_finish_parks_what_the_log_holds_less_one_token() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, max_tokens=50, session="s")
    for _ in range(9):
        driver.iterate()
    driver.send(Finish("r", 4))
    driver.run()
    assert answer.stop is StopReason.STOP
    assert driver.resident == {"s": len(PROMPT) + 4 - 1}
    again = driver.submit("again", [*PROMPT, *generated(4), 1], session="s")
    driver.run()
    assert again.cached_tokens == len(PROMPT) + 4 - 1


def test_kv_covers_all_but_the_last_token_after_a_stop() -> None:
    driver = EngineDriver()
    driver.submit("r", PROMPT, max_tokens=5, session="s")
    driver.run()
    assert driver.resident == {"s": len(PROMPT) + 5 - 1}


def test_messages_about_unknown_requests_are_ignored() -> None:
    driver = EngineDriver()
    driver.send(Cancel("nobody"))
    driver.send(Finish("nobody", 3))
    driver.run()
    assert driver.answers == {}


def test_a_request_submitted_twice_runs_once() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT)
    driver.send(answer.request)
    driver.run()
    assert answer.token_ids == generated(4)


def test_the_first_output_tells_how_long_the_request_queued() -> None:
    driver = EngineDriver(running=1)
    driver.submit("first", PROMPT)
    second = driver.submit("second", [5])
    driver.iterate()
    driver.now += 3.0
    driver.run()
    assert second.outputs[0].queue_seconds == 3.0


def test_the_time_of_each_batch_is_shared_by_tokens_and_counted_for_every_rank() -> None:
    driver = EngineDriver(batch=64)
    driver.runner.info = replace(driver.runner.info, ranks=2)
    alone = driver.submit("alone", PROMPT, max_tokens=2)
    driver.run()
    assert alone.outputs[-1].gpu_seconds == pytest.approx(2 * 2 * 0.01)
    assert alone.outputs[0].gpu_seconds == 0, "it is told at the end"
    long = driver.submit("long", list(range(1, 31)), max_tokens=1)
    short = driver.submit("short", list(range(31, 41)), max_tokens=1)
    driver.run()
    assert (long.outputs[-1].gpu_seconds, short.outputs[-1].gpu_seconds) == pytest.approx((0.015, 0.005))


def test_a_request_that_a_stop_string_ends_says_what_it_took() -> None:
    driver = EngineDriver()
    answer = driver.submit("r", PROMPT, max_tokens=9)
    driver.iterate()
    driver.send(Finish("r", 1))
    driver.run()
    assert answer.outputs[-1].gpu_seconds == pytest.approx(0.01)


def test_logprobs_come_only_when_asked_for() -> None:
    driver = EngineDriver()
    silent = driver.submit("silent", PROMPT)
    asked = driver.submit("asked", PROMPT, logprobs=1)
    driver.run()
    assert all(output.logprobs == () for output in silent.outputs)
    assert [output.logprobs for output in asked.outputs] == [((-1.0, ((token, -1.0),)),) for token in asked.token_ids]


def test_grammars_are_compiled_off_the_loop_and_wake_it() -> None:
    """The request waits, others run; when the compiler is done the engine is woken."""
    futures: list[Future[str]] = []

    class SlowPool:
        def submit(self, function, grammar):  # type: ignore[no-untyped-def]  # stands in for an Executor
            futures.append(Future())
            return futures[-1]

        def shutdown(self, **_: object) -> None: ...

    woken: list[bool] = []
    runner = EngineDriver().runner
    engine = Engine(
        runner,
        EngineConfig(4, 16),
        64,
        grammar_pool=SlowPool(),
        wake=lambda: woken.append(True),  # type: ignore[arg-type]  # as above
    )
    sampling = SamplingParams(max_tokens=1)
    engine.handle(Submit("slow", array("I", [1, 2]), 2, sampling, b"key", grammar="tokens:5"))
    engine.handle(Submit("free", array("I", [1, 2]), 2, sampling, b"key"))
    first = engine.iterate()
    assert first is not None
    assert [output.request_id for output in first.outputs] == ["free"]
    assert engine.stats.waiting == 1
    assert engine.iterate() is None or engine.iterate() is None
    assert not woken
    engine.handle(Submit("gone", array("I", [1, 2]), 2, sampling, b"key", grammar="tokens:6"))
    engine.handle(Cancel("gone"))
    assert futures[1].cancelled(), "what nobody waits for is compiled"
    woken.clear()
    engine.iterate()
    futures[0].set_result("")
    assert woken == [True]
    second = engine.iterate()
    assert second is not None
    assert [output.token_ids for output in second.outputs] == [(next_token([1, 2], 0),)]


def test_a_runner_that_answers_for_other_slots_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from roost_worker.engine.plan import BatchResult

    driver = EngineDriver()
    driver.submit("r", [1])
    monkeypatch.setattr(driver.runner, "run", lambda plan: BatchResult(()))
    with pytest.raises(RuntimeError, match="other slots"):
        driver.engine.iterate()
