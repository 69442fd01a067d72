"""`roost plan`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from roost_gateway.simulator.commands import simulate
from roost_gateway.simulator.plan_command import plan

app = typer.Typer()
app.command()(plan)
app.command()(simulate)
LOAD = ("--sessions", "16", "--steps", "150")


def planned(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", "--price", "2.5", *LOAD, *arguments])


def simulated(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["simulate", "-o", "json", *LOAD, *arguments])
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_it_says_how_many_workers_meet_the_goal_and_what_one_less_would_give() -> None:
    document = json.loads(planned("--ttft-p95", "20", "-o", "json").stdout)
    by_size = {trial["workers"]: trial for trial in document["trials"]}
    enough, fewer = by_size[document["workers"]], by_size[document["workers"] - 1]
    assert enough["ttft"]["p95"] <= 20 < fewer["ttft"]["p95"]
    assert enough["cost_per_hour"] == 2.5 * enough["workers"]
    assert list(by_size) == sorted(by_size)


def test_its_figures_are_those_of_simulate() -> None:
    document = json.loads(planned("--ttft-p95", "20", "-o", "json").stdout)
    report = simulated("--workers", str(document["workers"]))
    trial = next(trial for trial in document["trials"] if trial["workers"] == document["workers"])
    assert trial["ttft"] == report["ttft"]
    assert trial["hit_ratio"] == report["hit_ratio"]


def test_the_table_has_a_row_for_each_trial_and_the_answer_below() -> None:
    result = planned("--ttft-p95", "20")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    rows = [line for line in lines if line[0].isdigit()]
    assert {row.split()[1] for row in rows} == {"yes", "no"}
    assert lines[-1].startswith("A goal of 20 s takes ")
    assert " would give a TTFT p95 of " in lines[-1]


def test_steps_that_no_worker_holds_are_named() -> None:
    result = planned("--ttft-p95", "500", "--kv-tokens", "100000")
    assert "steps are too long for a worker and were not run: raise --kv-tokens" in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--ttft-p95", "0.001", "--max-workers", "2"), "2 workers give a TTFT p95 of"),
        (("--ttft-p95", "0.001", "--max-workers", "2"), "raise --max-workers or --ttft-p95"),
        (("--ttft-p95", "9", "--kv-tokens", "64"), "raise --kv-tokens"),
        (("--ttft-p95", "9", "--costs", "nothing.json"), "no costs nothing.json; give one of 8b-h100"),
        (("--ttft-p95", "9", "--workload", "azure"), "give the file in the format azure with --file"),
    ],
)
def test_what_cannot_be_met_or_read_is_an_error_that_says_what_to_do(arguments: tuple[str, ...], problem: str) -> None:
    result = planned(*arguments)
    assert result.exit_code == 1
    assert problem in result.output.replace("\n", " ")


def test_costs_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"prefill_token_seconds": 1e-3, "step_seconds": 0.5}))
    slow, fast = (simulated("--costs", name)["ttft"]["p50"] for name in (str(path), "8b-h100"))
    assert slow > fast
    path.write_text(json.dumps({"step_second": 0.5}))
    result = planned("--ttft-p95", "9", "--costs", str(path))
    assert "did you mean step_seconds?" in result.output.replace("\n", " ")
