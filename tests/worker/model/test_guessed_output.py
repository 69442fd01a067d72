"""On a real model a step's output is the same, id for id, whether its next ids are guessed or not."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine_runs import CALL, GREEDY, PROMPT, SHAPES, alone, config, generate, submit
from follower_rank import tensor_parallel
from roost_worker.convert.store import ModelStore
from roost_worker.engine.messages import SamplingParams, StopReason
from roost_worker.engine.plan import Runner
from roost_worker.model.runner import build_runner
from roost_worker.oracle import JudgedStep, Oracle, judge
from runner_driver import dummy_dir, prompts

DRAFTS = 16
BLOCK_BYTES = 16384
"""Of a block in float64."""
FEW_IDS = tuple((ord(letter), 60.0) for letter in "abm")


def of_few_ids(sampling: SamplingParams) -> SamplingParams:
    """Parameters with which a model without sense writes three ids, so that some guesses are right and some wrong."""
    return replace(sampling, logit_bias=FEW_IDS, max_tokens=90)


FEW = {name: of_few_ids(sampling) for name, sampling in SHAPES.items()}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy_dir("llama-tiny", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runner(model_dir: Path) -> Runner:
    return build_runner(config(64), model_dir)


@pytest.mark.parametrize("shape", FEW)
def test_an_output_is_the_drawn_one_in_fewer_batches(runner: Runner, shape: str) -> None:
    request = submit("r", FEW[shape], grammar=None)
    (expected, _), (output, stats) = (generate(runner, request, drafts=drafts) for drafts in (0, DRAFTS))
    assert output == expected
    assert stats.batches == len(output["r"].ids) - stats.right_draft_tokens
    assert stats.right_draft_tokens > 0


def test_wrong_guesses_are_among_those_of_the_shapes(runner: Runner) -> None:
    for shape in ("seeded", "truncated", "penalties"):
        _, stats = generate(runner, submit("r", FEW[shape], grammar=None), drafts=DRAFTS)
        assert stats.draft_tokens > stats.right_draft_tokens > 0


def test_rows_of_all_shapes_in_one_batch_do_not_disturb_each_other(runner: Runner) -> None:
    requests = [submit(name, sampling, grammar=None) for name, sampling in FEW.items()]
    requests.append(submit("call", SHAPES["seeded"], grammar=CALL))
    expected, _ = generate(runner, *requests)
    for batch in (6, 64):
        answers, stats = generate(runner, *requests, batch=batch, drafts=DRAFTS)
        assert answers == expected
        assert stats.right_draft_tokens > 0


def test_preemption_changes_nothing(runner: Runner, model_dir: Path) -> None:
    shapes = ("greedy", "seeded", "penalties")
    requests = [submit(name, FEW[name], (), None, ids) for name, ids in zip(shapes, prompts(3, 12), strict=True)]
    cramped = build_runner(config(64, context_tokens=160, memory_bytes=11 * BLOCK_BYTES), model_dir)
    answers, stats = generate(cramped, *requests, drafts=DRAFTS)
    assert stats.preemptions > 0
    assert stats.right_draft_tokens > 0
    assert answers == generate(runner, *requests)[0]


@pytest.mark.parametrize("most", range(1, 90, 8))
def test_max_tokens_ends_an_output_among_guesses(runner: Runner, most: int) -> None:
    whole, _ = alone(runner, FEW["greedy"], grammar=None)
    output, _ = alone(runner, replace(FEW["greedy"], max_tokens=most), grammar=None, drafts=DRAFTS)
    assert (output.ids, output.stop) == (whole.ids[:most], StopReason.LENGTH)


@pytest.mark.parametrize("shape", ["seeded", "penalties"])
def test_an_attempt_that_begins_again_anywhere_goes_on_alike(runner: Runner, shape: str) -> None:
    whole, _ = alone(runner, FEW[shape], grammar=None)
    for delivered in range(0, len(whole.ids), 7):
        rest, _ = alone(runner, FEW[shape], whole.ids[:delivered], None, drafts=DRAFTS)
        assert rest.ids == whole.ids[delivered:]


def test_nothing_is_guessed_where_log_probabilities_are_asked_for(runner: Runner) -> None:
    request = submit("r", replace(FEW["seeded"], logprobs=2), grammar=None)
    (expected, _), (output, stats) = (generate(runner, request, drafts=drafts) for drafts in (0, DRAFTS))
    assert output == expected
    assert stats.draft_tokens == 0


@pytest.mark.parametrize("most_forced", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_that_stands_in_the_context_is_copied_under_its_grammar(
    model_dir: Path, shape: str, most_forced: int
) -> None:
    calling = build_runner(config(most_forced), model_dir)
    earlier, _ = alone(calling, GREEDY)
    prompt = [*PROMPT, *earlier.ids, *PROMPT]
    request = submit("r", SHAPES[shape], prompt=prompt)
    (expected, drawn), (output, stats) = (generate(calling, request, drafts=drafts) for drafts in (0, DRAFTS))
    assert output == expected
    assert output["r"].stop is StopReason.STOP
    assert stats.right_draft_tokens > 0
    assert stats.batches < drawn.batches


def test_two_ranks_keep_the_same_guesses(runner: Runner, model_dir: Path, tmp_path: Path) -> None:
    requests = [submit(name, FEW[name], grammar=None) for name in ("seeded", "penalties")]
    answers, stats = generate(runner, *requests, drafts=DRAFTS)
    with tensor_parallel(config(64, ranks=2), model_dir, tmp_path) as (of_two, _):
        others, stats_of_two = generate(of_two, *requests, drafts=DRAFTS)
    assert others == answers
    assert stats_of_two.right_draft_tokens == stats.right_draft_tokens > 0


@pytest.mark.parametrize("shape", FEW)
def test_the_oracle_confirms_guessed_output(oracle: Oracle, guessed_in_float32: Runner, shape: str) -> None:
    output, batches = alone(guessed_in_float32, FEW[shape], grammar=None, drafts=DRAFTS)
    assert batches < len(output.ids)
    verdict = judge(oracle.score([JudgedStep(PROMPT, output.ids, FEW[shape])]))
    assert verdict.token_exact
    assert verdict.positions == len(output.ids)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ModelStore(tmp_path_factory.mktemp("store")).prepare("dummy://llama-tiny", "float32").path


@pytest.fixture(scope="module")
def oracle(stored: Path) -> Oracle:
    return Oracle(stored)


@pytest.fixture(scope="module")
def guessed_in_float32(stored: Path) -> Runner:
    usual = config(64)
    return build_runner(replace(usual, model=replace(usual.model, dtype="float32")), stored)
