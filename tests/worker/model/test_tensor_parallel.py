"""Ranks in real processes compute what one rank computes, and a group ends when one of its ranks does."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from feature_models import FEATURES, feature_dir
from follower_rank import need_gpus, spawn_rank, tensor_parallel
from roost_worker.engine.plan import Runner
from roost_worker.model import parallel
from roost_worker.model.config import ModelConfigError
from roost_worker.model.parallel import check_devices
from roost_worker.model.runner import build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config


def _generate(runner: Runner) -> list[Row]:
    driver = Driver(runner)
    rows = [driver.open(ids) for ids in prompts(3, 40)]
    driver.generate(rows, 10, chunk=17)
    return rows


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("llama-tiny", 2),
        ("attention-and-mlp-bias", 2),
        ("smollm3", 2),
        ("ministral3", 2),
        ("smollm2-tiny", 3),
        pytest.param("mistral-tiny", 4, id="replicated KV heads"),
    ],
)
def test_any_number_of_ranks_computes_the_same(name: str, ranks: int, tmp_path: Path) -> None:
    model_dir = feature_dir(name, tmp_path) if name in FEATURES else dummy_dir(name, tmp_path)
    expected = _generate(build_runner(worker_config(context_tokens=256), model_dir))
    with tensor_parallel(worker_config(context_tokens=256, ranks=ranks), model_dir, tmp_path) as (runner, _):
        rows = _generate(runner)
    for row, other in zip(rows, expected, strict=True):
        assert row.output == other.output
        np.testing.assert_allclose(row.logprobs, other.logprobs, rtol=0, atol=1e-10)


def test_ranks_round_weights_and_kv_to_int8_as_one_rank_does(tmp_path: Path) -> None:
    """An output's scale is that of all its inputs, which ranks share in half of the products."""
    model_dir = dummy_dir("llama-tiny", tmp_path)
    of_one_rank, of_two_ranks = (
        replace(config, model=replace(config.model, quantization="int8"), kv=replace(config.kv, dtype="int8"))
        for config in (worker_config(context_tokens=256, ranks=ranks) for ranks in (1, 2))
    )
    alone = build_runner(of_one_rank, model_dir)
    expected = _generate(alone)
    with tensor_parallel(of_two_ranks, model_dir, tmp_path) as (runner, _):
        rows = _generate(runner)
        assert runner.info == replace(alone.info, ranks=2), "memory is that of all ranks together"
    for row, other in zip(rows, expected, strict=True):
        assert row.output == other.output
        np.testing.assert_allclose(row.logprobs, other.logprobs, rtol=0, atol=1e-10)


def test_a_plan_larger_than_one_message_arrives_whole(tmp_path: Path) -> None:
    model_dir = dummy_dir("llama-tiny", tmp_path)
    many = prompts(16, 300)
    alone, expected = Driver(build_runner(worker_config(), model_dir)), []
    for ids in many:
        expected.append(alone.open(ids))
        alone.step([(expected[-1], 512)])
    with tensor_parallel(worker_config(ranks=2), model_dir, tmp_path) as (runner, _):
        driver = Driver(runner)
        rows = [driver.open(ids) for ids in many]
        driver.step([(row, 512) for row in rows])
        assert runner.info == replace(alone.runner.info, ranks=2), "memory is that of all ranks together"
    assert [row.output for row in rows] == [row.output for row in expected]


def test_a_dead_rank_breaks_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, but for a plan that is sent just when the rank dies: that breaks in the end."""
    monkeypatch.setattr(parallel, "_WORK_TIMEOUT", timedelta(minutes=1))
    model_dir = dummy_dir("llama-tiny", tmp_path)
    with tensor_parallel(worker_config(ranks=2), model_dir, tmp_path) as (runner, followers):
        driver = Driver(runner)
        row = driver.open(prompts(1, 10)[0])
        driver.step([(row, 10)])
        followers[0].kill()
        followers[0].wait()
        with pytest.raises(RuntimeError):
            driver.generate([row], 10)


def test_followers_end_when_rank_0_does(tmp_path: Path) -> None:
    need_gpus(2)
    model_dir, config = dummy_dir("llama-tiny", tmp_path), worker_config(ranks=2)
    meeting_point = (tmp_path / "meeting-point").as_uri()
    ranks = [spawn_rank(config, model_dir, rank, 2, meeting_point) for rank in range(2)]
    try:
        assert ranks[0].wait(timeout=120) == 0
        assert ranks[1].wait(timeout=120) != 0
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_ranks_that_do_not_divide_the_model_are_refused_with_those_that_do(tmp_path: Path) -> None:
    model_dir = dummy_dir("smollm2-tiny", tmp_path)
    with pytest.raises(ModelConfigError, match=r"tensorParallel: 2 .* use one of 1, 3"):
        build_runner(worker_config(ranks=2), model_dir, rank=0, world=2, init_method="file:///nowhere")


def test_each_rank_has_a_gpu_of_its_own() -> None:
    check_devices([b"one", b"two"])
    with pytest.raises(ModelConfigError, match="tensorParallel: 3 ranks need as many GPUs and see 2; give the worker"):
        check_devices([b"one", b"two", b"one"])
