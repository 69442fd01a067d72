"""Grammars on the runner: masks are applied, states follow the output, and one failing grammar harms no other row."""

import json
from array import array

import pytest

from engine_driver import InlineExecutor
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import SamplingParams, StopReason, Submit
from roost_worker.engine.plan import BatchPlan, NewSlot, Sampled
from roost_worker.grammar import build_json_schema
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config

SCHEMA = build_json_schema(
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"enum": ["ant", "bee"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["name", "legs"],
            "additionalProperties": False,
        }
    )
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> TorchRunner:
    return build_runner(worker_config(), dummy_dir("llama-tiny", tmp_path_factory.mktemp("model")))


def _open(driver: Driver, ids: list[int], params: SamplingParams, output: list[int] | None = None) -> Row:
    row = driver.open(ids, params, output or [])
    new = NewSlot(row.slot, params, array("I", ids), array("I", output or []), grammar=SCHEMA)
    driver.runner.run(BatchPlan((), new_slots=(new,)))
    return row


def _run(driver: Driver, row: Row) -> bool:
    """Runs to the grammar's end; byte-level tokens are bytes."""
    for _ in range(60):
        sampled = driver.step([(row, 512)])[0]
        assert not sampled.error
        if sampled.grammar_done:
            return True
    return False


PARAMS = SamplingParams(temperature=1.5, seed=5, max_tokens=60)


def test_output_follows_the_schema_and_ends_with_it(runner: TorchRunner) -> None:
    driver = Driver(runner, report=False)
    for ids in prompts(5, 12):
        row = _open(driver, ids, PARAMS)
        assert _run(driver, row)
        document = json.loads(bytes(token for token in row.output if token < 256))
        assert document["name"] in ("ant", "bee")
        assert document["legs"] in range(10)


def test_a_replayed_output_goes_on_where_it_stopped(runner: TorchRunner) -> None:
    ids = prompts(1, 12)[0]
    driver = Driver(runner, report=False)
    whole = _open(driver, ids, PARAMS)
    assert _run(driver, whole)
    resumed = _open(driver, ids, PARAMS, whole.output[:6])
    assert _run(driver, resumed)
    assert whole.output[:6] + resumed.output == whole.output


def test_an_output_that_is_complete_already_draws_nothing(runner: TorchRunner) -> None:
    driver = Driver(runner, report=False)
    ids = prompts(1, 12)[0]
    whole, free = _open(driver, ids, PARAMS), driver.open(prompts(1, 9)[0])
    assert _run(driver, whole)
    replayed = _open(driver, ids, PARAMS, whole.output)
    drawn = driver.step([(free, 512), (replayed, 512)])
    assert drawn[0].token_id >= 0
    assert drawn[1] == Sampled(replayed.slot, -1, grammar_done=True)


def test_a_failover_between_the_last_token_and_the_end_ends_at_once(runner: TorchRunner) -> None:
    driver = Driver(runner, report=False)
    ids = prompts(1, 12)[0]
    whole = _open(driver, ids, PARAMS)
    assert _run(driver, whole)
    engine = Engine(runner, EngineConfig(4, 64), 1024, grammar_pool=InlineExecutor())
    engine.handle(Submit("r", array("I", [*ids, *whole.output]), len(ids), PARAMS, b"tenant", "s", SCHEMA))
    outputs = engine.iterate()
    assert outputs is not None
    assert [(output.token_ids, output.stop) for output in outputs.outputs] == [((), StopReason.STOP)]
    assert outputs.parked == (("s", len(ids) + len(whole.output) - 1),)


def test_min_tokens_yields_to_the_grammar(runner: TorchRunner) -> None:
    driver = Driver(runner, report=False)
    eos = frozenset(runner.info.eos_token_ids)
    row = _open(driver, prompts(1, 12)[0], SamplingParams(min_tokens=50, stop_token_ids=eos))
    assert _run(driver, row)
    assert len(row.output) < 50


def test_output_that_leaves_the_grammar_fails_its_row_only(runner: TorchRunner) -> None:
    driver = Driver(runner, report=False)
    free = driver.open(prompts(1, 9)[0])
    broken = _open(driver, prompts(1, 12)[0], PARAMS, [0, 1, 2])
    drawn = driver.step([(free, 512), (broken, 512)])
    assert not drawn[0].error
    assert "leaves the grammar" in drawn[1].error


def test_refusals_are_explained(runner: TorchRunner) -> None:
    assert runner.check_grammar(SCHEMA) == ""
    assert runner.check_grammar("no grammar") != ""
