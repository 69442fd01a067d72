"""The batched engine's closed form against batches one by one."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.batched_engine import BatchedEngine
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.engines import RecordedEngine
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.workload import Turn
from roost_worker.engine.prefill import shares

COSTS = WorkerCosts(
    prompt_seconds=0.003,
    prefill_token_seconds=1e-4,
    prefill_pair_seconds=1e-5,
    step_seconds=0.01,
    row_seconds=1e-3,
    kv_token_seconds=1e-5,
    chunk_tokens=32,
)
COPY_SECONDS = 0.0061
"""Of a block: a batch restores three."""
GAPS = st.integers(0, 500).map(lambda number: number * 1.000037e-3)
"""Seconds between starts; none ends within a rounding of a batch's end."""
BLOCKS = st.sampled_from((0, 0, 1, 2, 3, 7))
JOBS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60), BLOCKS, BLOCKS), min_size=1, max_size=6)


def job_of(
    name: int, prompt: int, output: int, restored: int = 0, offloaded: int = 0, seconds: float | None = None
) -> Job:
    job = Job(f"s{name}", "", 0, 0, prompt, Turn(0, prompt, output, 0.0, False, seconds), 0.0, continuation=False)
    job.restored_blocks, job.offloaded_blocks = restored, offloaded
    job.cached_tokens = min(4 * restored, prompt - 1)
    return job


def batch_by_batch(jobs: Sequence[tuple[float, Job]]) -> dict[str, tuple[float, float]]:
    """First tokens and ends of jobs that start at certain times, in order."""
    time, arrivals, times = 0.0, list(jobs), dict[str, tuple[float, float]]()
    order = {job.session: number for number, (_, job) in enumerate(jobs)}
    prompts: list[tuple[Job, int]] = []
    restoring: list[tuple[Job, int]] = []
    decoding: dict[str, tuple[Job, int]] = {}
    firsts: dict[str, float] = {}
    while arrivals or prompts or restoring or decoding:
        if not prompts and not restoring and not decoding:
            time = max(time, arrivals[0][0])
        copies, most = 0, 3
        while arrivals and arrivals[0][0] <= time:
            job = arrivals.pop(0)[1]
            copies += job.offloaded_blocks
            if job.restored_blocks:
                restoring.append((job, job.restored_blocks))
            else:
                prompts.append((job, job.missing_tokens))
        for number, (job, blocks) in enumerate(restoring):
            restored = min(most, blocks)
            restoring[number] = job, blocks - restored
            copies, most = copies + restored, most - restored
        kv = sum(job.prompt_tokens + done for job, done in decoding.values())
        begin, tokens = time, max(1, COSTS.chunk_tokens - len(decoding))
        time += copies * COPY_SECONDS
        time += COSTS.batch_seconds(len(decoding), kv) if decoding or prompts else 0.0
        parts = shares([(0, left) for _, left in prompts], tokens, COSTS.chunk_tokens)
        for (job, left), part in zip(prompts, parts, strict=True):
            if part:
                time += COSTS.prefill_seconds(part, job.prompt_tokens - left)
                time -= COSTS.prompt_seconds if left < job.missing_tokens else 0.0
        assert time > begin
        decoding = {name: (job, done + 1) for name, (job, done) in decoding.items()}
        prompts = [(job, left - part) for (job, left), part in zip(prompts, parts, strict=True)]
        for job, left in prompts:
            if not left:
                firsts[job.session], decoding[job.session] = time, (job, 1)
        prompts = [(job, left) for job, left in prompts if left]
        prompts += [(job, job.missing_tokens) for job, blocks in restoring if not blocks]
        prompts.sort(key=lambda prompt: order[prompt[0].session])
        restoring = [(job, blocks) for job, blocks in restoring if blocks]
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


@given(JOBS, st.lists(GAPS, min_size=6, max_size=6))
def test_it_takes_as_long_as_batches_one_by_one(sizes: list[tuple[int, ...]], gaps: list[float]) -> None:
    jobs = [(sum(gaps[: number + 1]), job_of(number, *size)) for number, size in enumerate(sizes)]
    engine = BatchedEngine(COSTS, COPY_SECONDS)
    actual: dict[str, tuple[float, float]] = {}
    for time, job in jobs:
        while engine.next_time() <= time:
            now = engine.next_time()
            actual |= {ended.session: (ended.first_token, now) for ended in engine.advance(now)}
        assert engine.advance(time) == []
        engine.start(job, time)
    actual |= ends_of(engine)
    expected = batch_by_batch(jobs)
    assert actual.keys() == expected.keys()
    for name, times in expected.items():
        assert actual[name] == pytest.approx(times, rel=1e-9)


@given(JOBS, st.lists(st.floats(0.001, 0.3), max_size=20))
def test_looking_at_it_changes_nothing(sizes: list[tuple[int, ...]], looks: list[float]) -> None:
    whole, watched = BatchedEngine(COSTS, COPY_SECONDS), BatchedEngine(COSTS, COPY_SECONDS)
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


def test_a_later_prompt_waits_for_the_one_before_it_unless_it_is_light() -> None:
    def first_tokens(later_prompt: int) -> tuple[float, float]:
        engine = BatchedEngine(COSTS, COPY_SECONDS)
        engine.start(job_of(0, 320, 5), 0.0)
        engine.advance(0.05)
        engine.start(job_of(1, later_prompt, 5), 0.05)
        times = ends_of(engine)
        return times["s0"][0], times["s1"][0]

    heavy_before, heavy = first_tokens(100)
    light_before, light = first_tokens(COSTS.chunk_tokens)
    assert heavy_before < heavy
    assert light < light_before


def test_a_step_that_comes_during_a_batch_is_in_the_next_one() -> None:
    engine = BatchedEngine(COSTS, COPY_SECONDS)
    engine.start(job_of(0, 10, 3), 0.0)
    first_batch = engine.next_time()
    engine.advance(first_batch / 2)
    engine.start(job_of(1, 1, 1), first_batch / 2)
    assert engine.next_time() == first_batch
    times = ends_of(engine)
    second_batch = COSTS.batch_seconds(1, 11) + COSTS.prefill_seconds(1, 0)
    assert times["s1"] == pytest.approx((first_batch + second_batch, first_batch + second_batch))


def test_copies_delay_a_recorded_steps_first_token() -> None:
    engine = RecordedEngine(COSTS, COPY_SECONDS)
    plain, copied = job_of(0, 100, 5, seconds=9.0), job_of(1, 100, 5, offloaded=2, seconds=9.0)
    engine.start(plain, 1.0)
    engine.start(copied, 1.0)
    assert copied.first_token - plain.first_token == pytest.approx(2 * COPY_SECONDS)


def test_recorded_times_do_not_depend_on_what_is_cached() -> None:
    engine = RecordedEngine(replace(COSTS, prefill_pair_seconds=1e-7), COPY_SECONDS)
    cold, warm, unknown = job_of(0, 30_000, 5, seconds=2.0), job_of(1, 30_000, 5, seconds=2.0), job_of(2, 100, 5)
    warm.kept_tokens = warm.cached_tokens = 29_990
    for job in (cold, warm, unknown):
        engine.start(job, 1.0)
    times = ends_of(engine)
    assert times["s0"][1] == times["s1"][1] == 3.0
    assert times["s1"][0] < 3.0 < times["s0"][0]
    assert times["s2"][1] < 3.0, "estimated where the trace says nothing"
