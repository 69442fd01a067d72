"""The batched engine's closed form against batches one by one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.engines import BatchedEngine, RecordedEngine
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.workload import Turn

COSTS = WorkerCosts(
    prompt_seconds=0.003,
    prefill_token_seconds=1e-4,
    prefill_pair_seconds=1e-7,
    step_seconds=0.01,
    row_seconds=1e-3,
    kv_token_seconds=1e-6,
    chunk_tokens=32,
)
JOBS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=6)


def job_of(name: int, prompt: int, output: int, seconds: float | None = None) -> Job:
    return Job(f"s{name}", "", 0, 0, prompt, Turn(0, prompt, output, 0.0, False, seconds), 0.0, continuation=False)


def batch_by_batch(jobs: Sequence[Job]) -> dict[str, tuple[float, float]]:
    """First tokens and ends of jobs that start at once."""
    time, waiting, times = 0.0, list(jobs), dict[str, tuple[float, float]]()
    chunks = [-(-job.prompt_tokens // COSTS.chunk_tokens) for job in jobs]
    decoding: dict[str, tuple[Job, int]] = {}
    firsts: dict[str, float] = {}
    while waiting or decoding:
        kv = sum(job.prompt_tokens + done for job, done in decoding.values())
        time += COSTS.step_seconds + COSTS.row_seconds * len(decoding) + COSTS.kv_token_seconds * kv
        decoding = {name: (job, done + 1) for name, (job, done) in decoding.items()}
        if waiting:
            job = waiting[0]
            number = jobs.index(job)
            time += COSTS.prefill_seconds(job.prompt_tokens, 0) / -(-job.prompt_tokens // COSTS.chunk_tokens)
            chunks[number] -= 1
            if not chunks[number]:
                waiting.pop(0)
                firsts[job.session] = time
                decoding[job.session] = job, 1
        for name, (job, done) in list(decoding.items()):
            if done == job.turn.output_tokens:
                times[name] = firsts[name], time
                del decoding[name]
    return times


def ends_of(engine: BatchedEngine | RecordedEngine) -> dict[str, tuple[float, float]]:
    """Runs until all jobs have ended."""
    times: dict[str, tuple[float, float]] = {}
    while len(engine):
        now = engine.next_time()
        times |= {job.session: (job.first_token, now) for job in engine.advance(now)}
    return times


@given(JOBS)
def test_it_takes_as_long_as_batches_one_by_one(sizes: list[tuple[int, int]]) -> None:
    jobs = [job_of(number, *size) for number, size in enumerate(sizes)]
    engine = BatchedEngine(COSTS)
    for job in jobs:
        engine.start(job, 0.0)
    expected = batch_by_batch(jobs)
    actual = ends_of(engine)
    assert actual.keys() == expected.keys()
    for name, times in expected.items():
        assert actual[name] == pytest.approx(times, rel=2e-3)


@given(JOBS, st.lists(st.floats(0.001, 0.3), max_size=20))
def test_looking_at_it_changes_nothing(sizes: list[tuple[int, int]], looks: list[float]) -> None:
    whole, watched = BatchedEngine(COSTS), BatchedEngine(COSTS)
    for number, size in enumerate(sizes):
        whole.start(job_of(number, *size), 0.0)
        watched.start(job_of(number, *size), 0.0)
    now, times = 0.0, dict[str, tuple[float, float]]()
    for look in looks:
        now += look
        while watched.next_time() <= now:
            end = watched.next_time()
            times |= {job.session: (job.first_token, end) for job in watched.advance(end)}
        watched.advance(now)
    times |= ends_of(watched)
    expected = ends_of(whole)
    for name in expected:
        assert times[name] == pytest.approx(expected[name], rel=1e-6)


def test_a_later_start_waits_for_the_prompt_before_it() -> None:
    engine = BatchedEngine(COSTS)
    first, second = job_of(0, 320, 5), job_of(1, 32, 5)
    engine.start(first, 0.0)
    engine.advance(0.05)
    engine.start(second, 0.05)
    times = ends_of(engine)
    assert times["s0"][0] < times["s1"][0]
    assert times["s1"][1] > times["s0"][1]


def test_recorded_times_do_not_depend_on_what_is_cached() -> None:
    engine = RecordedEngine(COSTS)
    cold, warm, unknown = job_of(0, 30_000, 5, 2.0), job_of(1, 30_000, 5, 2.0), job_of(2, 100, 5)
    warm.kept_tokens = warm.cached_tokens = 29_990
    for job in (cold, warm, unknown):
        engine.start(job, 1.0)
    times = ends_of(engine)
    assert times["s0"][1] == times["s1"][1] == 3.0
    assert times["s1"][0] < 3.0 < times["s0"][0]
    assert times["s2"][1] < 3.0, "estimated where the trace says nothing"
