"""The oracle agrees with an honest log, whatever shaped its logits, and finds what was changed in a log."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roost_worker.convert.store import ModelStore
from roost_worker.engine.messages import SamplingParams
from roost_worker.grammar import GrammarCompiler, build_json_schema, fill_masks
from roost_worker.model.runner import build_runner
from roost_worker.oracle import Finding, JudgedStep, Oracle, PositionReport, judge
from runner_driver import Driver, prompts, worker_config

PROMPTS = (b"\x101user\nhello", b"more, please", b"bye")
GRAMMAR = build_json_schema('{"type": "array", "items": {"type": "integer"}, "minItems": 3}')


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For a tiny model, threads cost more than they give, above all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ModelStore(tmp_path_factory.mktemp("store")).prepare("dummy://llama-tiny", "float32").path


@pytest.fixture(scope="module")
def oracle(model_dir: Path) -> Oracle:
    return Oracle(model_dir)


class Generator:
    """A plain token-by-token decoder with the worker's own sampler: an honest log, one prefill per token."""

    def __init__(self, model_dir: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.compiler = GrammarCompiler(model_dir / "tokenizer.json", (258, 256), 264)

    def log(self, samplings: Sequence[SamplingParams], grammar: str | None = None) -> Iterator[JudgedStep]:
        context: list[int] = []
        for prompt, sampling in zip(PROMPTS, samplings, strict=True):
            context += prompt
            output = self._output(context, sampling, grammar)
            context += output
            yield JudgedStep(list(prompt), output, sampling, grammar)

    def _output(self, context: Sequence[int], sampling: SamplingParams, grammar: str | None) -> list[int]:
        from array import array

        from roost_worker.engine.plan import Chunk, NewSlot
        from roost_worker.model.sampler import Sampler

        sampler = Sampler(264, self.torch.device("cpu"), lambda text, _: self.compiler.start(text))
        sampler.take(NewSlot(0, sampling, array("I", context), array("I"), grammar))
        output: list[int] = []
        while len(output) < sampling.max_tokens:
            ids = [*context, *output]
            with self.torch.inference_mode():
                logits = self.model(self.torch.tensor([ids])).logits[:, -1]
            chunk = Chunk(0, array("I", ids), 0, array("I", [1]), sample=True)
            (drawn,) = sampler.sample(logits, [chunk])
            output.append(drawn.token_id)
            if drawn.grammar_done or drawn.token_id in sampling.stop_token_ids:
                break
        return output


@pytest.fixture(scope="module")
def generator(model_dir: Path) -> Generator:
    return Generator(model_dir)


GREEDY = SamplingParams(max_tokens=12)
SHAPES = {
    "greedy": GREEDY,
    "penalties": replace(GREEDY, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7),
    "bias": replace(GREEDY, logit_bias=((65, 9.0), (66, -100.0))),
    "min_tokens": replace(GREEDY, min_tokens=8, stop_token_ids=frozenset(range(0, 264, 2))),
    "sampled": replace(GREEDY, seed=7, temperature=1.3),
    "large seed": replace(GREEDY, seed=(1 << 64) - 3, temperature=0.7),
    "truncated": replace(GREEDY, seed=8, temperature=2.0, top_k=40, top_p=0.8, min_p=0.01),
    "nucleus": replace(GREEDY, seed=9, temperature=1.5, top_p=0.6),
    "everything": replace(GREEDY, seed=3, temperature=1.0, top_p=0.9, repetition_penalty=1.2, logit_bias=((70, 4.0),)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_honest_log_is_exact(oracle: Oracle, generator: Generator, shape: str) -> None:
    steps = list(generator.log([SHAPES[shape]] * 3))
    verdict = judge(oracle.score(steps))
    assert verdict.positions == sum(len(step.output_ids) for step in steps)
    assert verdict.token_exact
    assert verdict.near_ties == 0


@pytest.mark.parametrize("sampling", [GREEDY, replace(GREEDY, max_tokens=30, seed=5, temperature=1.0)])
def test_a_constrained_log_is_exact(oracle: Oracle, generator: Generator, sampling: SamplingParams) -> None:
    steps = list(generator.log([sampling] * 3, GRAMMAR))
    reports = oracle.score(steps)
    assert judge(reports).token_exact
    assert judge(reports).unconstrained == 0
    assert all(set(step.output_ids) <= set(b"[]-0123456789,") for step in steps)


@pytest.mark.parametrize(
    "forgotten",
    [
        ("penalties", {"repetition_penalty": 1.0}),
        ("penalties", {"frequency_penalty": 0.0, "presence_penalty": 0.0}),
        ("bias", {"logit_bias": ()}),
        ("min_tokens", {"min_tokens": 0}),
        ("sampled", {"seed": 8}),
        ("sampled", {"temperature": 0.0}),
        ("truncated", {"top_k": 1}),
    ],
    ids=str,
)
def test_a_log_made_otherwise_than_it_says_is_found(
    oracle: Oracle, generator: Generator, forgotten: tuple[str, dict[str, object]]
) -> None:
    shape, change = forgotten
    steps = list(generator.log([SHAPES[shape]] * 3))
    altered = [replace(step, sampling=replace(step.sampling, **change)) for step in steps]
    assert not judge(oracle.score(altered)).token_exact


def test_one_changed_token_is_found_where_it_is(oracle: Oracle, generator: Generator) -> None:
    steps = list(generator.log([GREEDY] * 3))
    output = list(steps[1].output_ids)
    output[4] = (output[4] + 1) % 256
    changed = [steps[0], replace(steps[1], output_ids=output), steps[2]]
    wrong = [(report.step, report.index) for report in oracle.score(changed) if report.finding is Finding.WRONG]
    assert wrong[0] == (1, 4)


def test_a_lost_token_is_found(oracle: Oracle, generator: Generator) -> None:
    steps = list(generator.log([GREEDY] * 3))
    steps[0] = replace(steps[0], output_ids=[*steps[0].output_ids[:3], *steps[0].output_ids[4:]])
    assert not judge(oracle.score(steps)).token_exact


def test_a_doubled_step_is_found(oracle: Oracle, generator: Generator) -> None:
    steps = list(generator.log([GREEDY] * 3))
    assert not judge(oracle.score([steps[0], steps[0], *steps[1:]])).token_exact


def test_a_grammar_that_was_not_applied_is_found(oracle: Oracle, generator: Generator) -> None:
    from roost_worker.grammar import GrammarError

    steps = [replace(step, grammar=GRAMMAR) for step in generator.log([GREEDY] * 3)]
    with pytest.raises(GrammarError, match="step 0, output 0"):
        oracle.score(steps)


def test_a_log_without_output_has_nothing_to_judge(oracle: Oracle) -> None:
    assert oracle.score([]) == []
    assert oracle.score([JudgedStep([1, 2], [])]) == []


def _report(gap: float, finding: Finding) -> PositionReport:
    return PositionReport(0, 0, 1, 2, gap, finding, constrained=False)


@pytest.mark.parametrize(
    ("positions", "near_ties", "wrong", "exact"),
    [
        (0, 0, 0, True),
        (10, 2, 0, True),
        (10, 3, 0, False),
        (5000, 5, 0, True),
        (5000, 6, 0, False),
        (5000, 0, 1, False),
    ],
)
def test_the_verdict_allows_few_near_ties_and_nothing_wrong(
    positions: int, near_ties: int, wrong: int, exact: bool
) -> None:
    reports = [_report(1e-4, Finding.NEAR_TIE)] * near_ties + [_report(0.1, Finding.WRONG)] * wrong
    reports += [_report(0.0, Finding.FIRST_CHOICE)] * (positions - near_ties - wrong)
    assert judge(reports).token_exact is exact


def test_a_small_gap_is_a_near_tie(oracle: Oracle, generator: Generator) -> None:
    (step, *_) = generator.log([GREEDY] * 3)
    report = oracle.score([step])[0]
    logits = oracle._logits([*step.prompt_ids, *step.output_ids], [len(step.prompt_ids)])[0]
    second = int(np.argsort(logits)[-2])
    bias = float(logits[report.token] - logits[second])
    for nudge, finding in ((-1e-4, Finding.NEAR_TIE), (-2e-3, Finding.WRONG)):
        biased = replace(step.sampling, logit_bias=((second, bias - nudge),))
        assert oracle.score([replace(step, sampling=biased)])[0].finding is finding


def test_masks_are_read_bit_by_bit(generator: Generator) -> None:
    from roost_worker.oracle import _allowed

    words = np.zeros((1, 9), dtype=np.int32)
    state = generator.compiler.start(GRAMMAR)
    fill_masks([state], words)
    expected = [index for index in range(264) if (int(words[0, index // 32]) >> (index % 32)) & 1]
    assert np.flatnonzero(_allowed(state, 264)).tolist() == expected


def test_an_oracle_of_int8_kv_computes_what_a_worker_does(model_dir: Path, oracle: Oracle) -> None:
    config = worker_config("float32")
    kv, engine = replace(config.kv, dtype="int8"), replace(config.engine, kernels="torch")
    driver = Driver(build_runner(replace(config, kv=kv, engine=engine), model_dir))
    row = driver.open(prompts(1, 40)[0])
    driver.generate([row], 8, chunk=17)
    places = range(40, 48)

    def largest_error(of: Oracle) -> float:
        logits = of._logits(row.ids, places)
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return float(np.abs(logprobs - np.stack(row.logprobs)).max())

    assert largest_error(Oracle(model_dir, kv_dtype="int8")) < largest_error(oracle) / 20
