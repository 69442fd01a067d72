"""`roost simulate`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from roost_gateway.simulator.commands import simulate

app = typer.Typer()
app.command()(simulate)


def simulated(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--steps", "60"])


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "conversations.jsonl"
    turns = [{"text": "hello " * 20, "output_length": 9, "delay": 100}] * 3
    lines = [{"session_id": f"s{number}", "turns": turns} for number in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_prints_a_table() -> None:
    result = simulated("--workers", "2", "--sessions", "4")
    assert result.exit_code == 0, result.output
    for figure in ("hit ratio", "recomputed", "TTFT", "wait at the gateway", "60 in"):
        assert figure in result.stdout


def test_host_memory_is_in_the_table() -> None:
    figure = "restored from host memory"
    tight = ("--sessions", "8", "--kv-tokens", "150000", "--context-tokens", "100000")
    assert figure not in simulated(*tight).stdout
    assert figure in simulated(*tight, "--host-tokens", "2000000").stdout


def test_it_prints_json_which_the_seed_decides() -> None:
    first, again, other = (simulated("-o", "json", "--seed", seed, "--policy", "LRU") for seed in ("3", "3", "4"))
    document = json.loads(first.stdout)
    assert document["steps"] == 60
    assert set(document["ttft"]) == {"p50", "p95", "p99", "highest"}
    assert first.stdout == again.stdout
    assert first.stdout != other.stdout


def test_a_files_sessions_repeat_or_run_once(conversations: Path) -> None:
    file = ("--workload", "aiperf", "--file", str(conversations), "-o", "json")
    # Equal sessions end their steps together: those that end in the batch of the last step are counted, too.
    assert 60 <= json.loads(simulated(*file).stdout)["steps"] < 64
    assert 60 <= json.loads(simulated(*file, "--rate", "5").stdout)["steps"] < 64
    once = json.loads(simulated(*file, "--recorded").stdout)
    assert (once["steps"], once["sessions_ended"]) == (12, 4)


def test_a_context_ends_sessions_and_gaps_and_time_have_bounds() -> None:
    def figures(*arguments: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(simulated("-o", "json", *arguments).stdout)
        return document

    free = figures()
    assert (free["steps"], free["steps_too_long"]) == (60, 0)
    assert figures("--context-tokens", "20000")["steps_too_long"] > 0
    few = ("--sessions", "4")
    assert figures(*few, "--longest-gap", "1")["simulated_seconds"] < figures(*few)["simulated_seconds"]
    assert 0 < figures("--seconds", str(free["simulated_seconds"] / 2))["steps"] < 60


def test_sessions_without_end_that_no_worker_holds_end_the_simulation() -> None:
    document = json.loads(simulated("-o", "json", "--kv-tokens", "64").stdout)
    assert (document["steps"], document["steps_too_long"]) == (0, 60)


def test_it_draws_plots_and_says_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    assert simulated("--plot", str(folder)).stdout == simulated().stdout
    plots = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(plots) == {"hit-ratio.png", "waiting.png", "working-set.png", "ttft.png"}
    assert all(content.startswith(b"\x89PNG") for content in plots.values())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--policy", "MRU"), "no retention policy MRU; there are"),
        (("--workload", "azure"), "give the file in the format azure with --file"),
        (("--recorded",), "the generator has no file and no recorded times"),
        (("--workload", "azure", "--file", __file__), "is not of the format azure"),
        (("--workload", "parquet", "--file", __file__), "no format parquet; there are"),
        (("--rate", "1", "--recorded"), "--rate and --recorded exclude each other"),
        (("--costs", "h100"), "no costs h100; give one of 8b-h100"),
        (("--kv-tokens", "10"), "10 tokens are less than a block of 64"),
        (("--rate", "inf"), "--rate must be a finite number, not inf"),
        (("--ramp", "inf"), "--ramp must be a finite number, not inf"),
    ],
)
def test_a_wrong_choice_is_an_error_that_says_what_to_do(arguments: tuple[str, ...], problem: str) -> None:
    result = simulated(*arguments)
    assert result.exit_code == 1
    assert problem in result.output.replace("\n", " ")


@pytest.mark.parametrize("cost", ["-1", "NaN", "Infinity"])
def test_costs_below_0_or_without_a_number_are_refused(cost: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(f'{{"row_seconds": {cost}}}')
    result = simulated("--costs", str(path))
    assert result.exit_code == 1
    assert "row_seconds must be a number of at least 0, not" in result.output.replace("\n", " ")


def test_a_simulation_without_a_step_has_nothing_to_plot(tmp_path: Path) -> None:
    result = simulated("--seconds", "0", "--plot", str(tmp_path))
    assert result.exit_code == 1
    assert "nothing to plot; raise --steps or --seconds" in result.output.replace("\n", " ")
