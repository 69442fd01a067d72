"""Requests on an engine, timed, and a workload's sessions on it; the engine runs a fake model."""

from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from paged_fake_runner import VOCAB, PagedFakeRunner, reference
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn, longest_context
from roost_operator.calibration.measure import Measurement, decode_point
from roost_operator.calibration.points import Engine, decode_sizes, prefill_sizes
from roost_operator.calibration.replay import Replay
from roost_operator.calibration.small_sessions import small, working_set_tokens
from roost_operator.calibration.timed_engine import Answer, TimedEngine
from roost_worker.config import EngineConfig, ModelConfig, WorkerConfig
from roost_worker.engine.messages import SamplingParams
from roost_worker.engine.plan import BatchPlan, BatchResult
from roost_worker.seam.client import EngineDeadError
from roost_worker.seam.thread_engine import start_thread_engine

CONTEXT = 256
KEY = b"key"


class BrokenRunner(PagedFakeRunner):
    """Breaks at its first batch."""

    def run(self, plan: BatchPlan) -> BatchResult:
        raise RuntimeError("the ranks are gone")


def fake_runner() -> PagedFakeRunner:
    return PagedFakeRunner(num_blocks=200, block_tokens=16, context_tokens=CONTEXT)


@asynccontextmanager
async def timed_engine(make: Callable[[], PagedFakeRunner] = fake_runner) -> AsyncIterator[TimedEngine]:
    config = WorkerConfig("a/b", ModelConfig("m", "dummy://m", context_tokens=CONTEXT), engine=EngineConfig(8, 64))
    async with TimedEngine(await start_thread_engine(make, config)) as engine:
        yield engine


async def test_a_request_gets_its_tokens_with_their_times_and_what_was_cached() -> None:
    prompt = array("I", range(40))
    async with timed_engine() as engine:
        first = await engine.run("s", prompt, 5, KEY)
        again = await engine.run("s", prompt + array("I", first.token_ids), 2, KEY)
    assert list(first.token_ids) == reference(prompt, 40, SamplingParams(max_tokens=5), CONTEXT)
    assert len(first.token_times) == 5
    assert list(first.token_times) == sorted(first.token_times)
    assert first.submitted <= first.token_times[0]
    assert (first.cached_tokens, again.cached_tokens) == (0, 44)


async def test_what_does_not_fit_the_context_is_an_error_that_says_what_to_do() -> None:
    async with timed_engine() as engine:
        with pytest.raises(ValueError, match="raise contextTokens"):
            await engine.run("s", array("I", [1] * CONTEXT), 1, KEY)
        with pytest.raises(ValueError, match="raise --context-tokens"):
            await engine.run("s", array("I", [1] * (CONTEXT - 2)), 9, KEY)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_dies_ends_its_requests() -> None:
    def broken() -> PagedFakeRunner:
        return BrokenRunner(num_blocks=200, block_tokens=16, context_tokens=CONTEXT)

    async with timed_engine(broken) as engine:
        with pytest.raises(EngineDeadError):
            await engine.run("s", array("I", [1]), 1, KEY)


async def test_every_size_is_measured_with_as_much_cached_as_asked() -> None:
    limits = Engine(CONTEXT, 199 * 16, max_running=8, chunk_tokens=64)
    async with timed_engine() as engine:
        measurement = Measurement(engine, limits, VOCAB, 1, lambda line: None)
        prefills, decodes = await measurement.prefills(), await measurement.decodes()
    assert [(point.tokens, point.cached) for point in prefills] == list(prefill_sizes(limits))
    assert [point.rows for point in decodes] == [rows for rows, _ in decode_sizes(limits)]
    for point, (rows, prompt) in zip(decodes, decode_sizes(limits), strict=True):
        assert rows * prompt < point.kv_tokens < limits.kv_tokens


def test_decoding_is_timed_while_all_rows_decode() -> None:
    """The second row's first token comes at 3, the first row's last one at 6: batches of 1 s."""
    early = Answer(0.0, (1,) * 6, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 0)
    late = Answer(0.0, (1,) * 5, (3.0, 4.0, 5.0, 6.0, 9.0), 0)
    point = decode_point([early, late], prompt_tokens=10)
    assert (point.rows, point.seconds) == (2, 1.0)
    assert point.kv_tokens == (10 + 4) + (10 + 2)  # at 4.5


async def test_sessions_are_replayed_with_their_sizes_and_their_own_kv() -> None:
    turns = (Turn(ALL_TOKENS, 30, 4), Turn(ALL_TOKENS, 8, 3, calls_tool=True), Turn(20, 10, 2))
    sessions = [Session(f"s{number}", turns, "shared", 16) for number in range(4)]
    async with timed_engine() as engine:
        figures = await Replay(engine, VOCAB, seed=1).run(iter(sessions), population=1, steps=12)
    prompts = (46, 46 + 4 + 8, 20 + 10)
    # All but the last output token, then the 20 tokens that are kept. The prefix goes with the session that ends.
    assert figures.hit_ratio == pytest.approx((49 + 20) / sum(prompts))
    assert figures.steps_per_second > 0
    assert 0 < figures.ttft_p50 <= figures.ttft_p95


async def test_a_replay_raises_what_the_engine_refuses() -> None:
    long = Session("long", (Turn(0, CONTEXT, 1),))
    async with timed_engine() as engine:
        with pytest.raises(ValueError, match="raise contextTokens"):
            await Replay(engine, VOCAB, seed=1).run(iter([long]), population=1, steps=1)


@pytest.mark.parametrize("context", [511, 8191])
def test_small_sessions_fit_the_context(context: int) -> None:
    parameters = small(fitted_parameters(), context)
    sessions = generate(parameters, 3)
    lengths = [longest_context(next(sessions)) for _ in range(100)]
    assert max(lengths) <= context == parameters.longest_context
    assert 10 * sum(lengths) / 100 == pytest.approx(working_set_tokens(parameters, 10), rel=0.5)
