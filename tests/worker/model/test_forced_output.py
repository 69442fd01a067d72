"""On a real model a step's output is the same, id for id, whether its forced tokens are drawn or not."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine_runs import CALL, GREEDY, PROMPT, SHAPES, alone, config, generate, submit
from follower_rank import tensor_parallel
from roost_worker.convert.store import ModelStore
from roost_worker.engine.messages import StopReason
from roost_worker.engine.plan import Runner
from roost_worker.model.runner import build_runner
from roost_worker.oracle import JudgedStep, Oracle, judge
from runner_driver import dummy_dir, prompts

BLOCK_BYTES = 16384
"""Of a block in float64."""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy_dir("llama-tiny", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def drawing(model_dir: Path) -> Runner:
    """Draws each token."""
    return build_runner(config(0), model_dir)


@pytest.fixture(scope="module")
def forcing(model_dir: Path) -> Runner:
    return build_runner(config(64), model_dir)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_output_is_the_drawn_one_in_fewer_batches(drawing: Runner, forcing: Runner, shape: str) -> None:
    (expected, draws), (output, batches) = (alone(runner, SHAPES[shape]) for runner in (drawing, forcing))
    assert (output.ids, output.stop) == (expected.ids, StopReason.STOP)
    assert draws == len(expected.ids)
    assert batches <= 0.6 * draws


@pytest.mark.parametrize("most_forced", [1, 5])
def test_runs_of_any_length_give_the_same_output(drawing: Runner, model_dir: Path, most_forced: int) -> None:
    expected, draws = alone(drawing, SHAPES["penalties"])
    output, batches = alone(build_runner(config(most_forced), model_dir), SHAPES["penalties"])
    assert output == expected
    assert draws / (most_forced + 1) <= batches < draws


def test_rows_of_all_shapes_in_one_batch_do_not_disturb_each_other(drawing: Runner, forcing: Runner) -> None:
    requests = [
        submit(name, sampling, grammar=grammar)
        for name, sampling, grammar in (
            *((name, sampling, CALL) for name, sampling in SHAPES.items()),
            ("free", replace(GREEDY, seed=8, temperature=1.0, max_tokens=60), None),
        )
    ]
    expected, _ = generate(drawing, *requests)
    for batch in (5, 64):
        assert generate(forcing, *requests, batch=batch)[0] == expected


def test_preemption_changes_nothing(drawing: Runner, model_dir: Path) -> None:
    shapes = ("greedy", "seeded", "penalties")
    requests = [submit(name, SHAPES[name], prompt=ids) for name, ids in zip(shapes, prompts(3, 12), strict=True)]
    cramped = build_runner(config(64, context_tokens=160, memory_bytes=11 * BLOCK_BYTES), model_dir)
    answers, stats = generate(cramped, *requests)
    assert stats.preemptions > 0
    assert answers == generate(drawing, *requests)[0]


def test_max_tokens_ends_an_output_among_forced_tokens(drawing: Runner, forcing: Runner) -> None:
    whole, _ = alone(drawing, GREEDY)
    for most in (1, 2, len(whole.ids) - 30, len(whole.ids) - 1, len(whole.ids)):
        limited = replace(GREEDY, max_tokens=most)
        output, _ = alone(forcing, limited)
        assert output == alone(drawing, limited)[0]
        assert output.ids == whole.ids[:most]
        assert output.stop is (StopReason.STOP if output.ids == whole.ids else StopReason.LENGTH)


@pytest.mark.parametrize("shape", ["seeded", "penalties"])
def test_an_attempt_that_begins_again_anywhere_goes_on_alike(drawing: Runner, forcing: Runner, shape: str) -> None:
    whole, _ = alone(drawing, SHAPES[shape])
    for delivered in range(0, len(whole.ids) + 1, 7):
        rest, _ = alone(forcing, SHAPES[shape], whole.ids[:delivered])
        assert (rest.ids, rest.stop) == (whole.ids[delivered:], StopReason.STOP)


def test_each_token_is_drawn_where_its_log_probability_is_asked_for(drawing: Runner, forcing: Runner) -> None:
    asking = replace(SHAPES["seeded"], logprobs=2)
    (expected, _), (output, batches) = (alone(runner, asking) for runner in (drawing, forcing))
    assert output == expected
    assert batches == len(output.ids) == len(output.logprobs)
    assert output.ids == alone(forcing, SHAPES["seeded"])[0].ids


def test_two_ranks_compute_the_same_forced_tokens(forcing: Runner, model_dir: Path, tmp_path: Path) -> None:
    requests = [submit(name, SHAPES[name]) for name in ("seeded", "penalties")]
    answers, stats = generate(forcing, *requests)
    with tensor_parallel(config(64, ranks=2), model_dir, tmp_path) as (runner, _):
        others, of_two = generate(runner, *requests)
    assert others == answers
    assert of_two.batches == stats.batches


@pytest.mark.parametrize("shape", SHAPES)
def test_the_oracle_confirms_forced_output(oracle: Oracle, forced_in_float32: Runner, shape: str) -> None:
    output, batches = alone(forced_in_float32, SHAPES[shape])
    assert batches < len(output.ids)
    verdict = judge(oracle.score([JudgedStep(PROMPT, output.ids, SHAPES[shape], CALL)]))
    assert verdict.token_exact
    assert (verdict.positions, verdict.unconstrained) == (len(output.ids), 0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ModelStore(tmp_path_factory.mktemp("store")).prepare("dummy://llama-tiny", "float32").path


@pytest.fixture(scope="module")
def oracle(stored: Path) -> Oracle:
    return Oracle(stored)


@pytest.fixture(scope="module")
def forced_in_float32(stored: Path) -> Runner:
    usual = config(64)
    return build_runner(replace(usual, model=replace(usual.model, dtype="float32")), stored)
