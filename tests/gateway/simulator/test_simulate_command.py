"""`roost simulate`."""

import json
from pathlib import Path

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


def test_it_prints_json_which_the_seed_decides() -> None:
    first, again, other = (simulated("-o", "json", "--seed", seed, "--policy", "LRU") for seed in ("3", "3", "4"))
    document = json.loads(first.stdout)
    assert document["steps"] == 60
    assert set(document["ttft"]) == {"p50", "p95", "p99", "highest"}
    assert first.stdout == again.stdout
    assert first.stdout != other.stdout


def test_a_files_sessions_repeat_or_run_once(conversations: Path) -> None:
    file = ("--workload", "aiperf", "--file", str(conversations), "-o", "json")
    assert json.loads(simulated(*file).stdout)["steps"] == 60
    assert json.loads(simulated(*file, "--rate", "5").stdout)["steps"] == 60
    once = json.loads(simulated(*file, "--recorded").stdout)
    assert (once["steps"], once["sessions_ended"]) == (12, 4)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--policy", "MRU"), "no retention policy MRU; there are"),
        (("--workload", "azure"), "give the file in the format azure with --file"),
        (("--recorded",), "the generator has no file and no recorded times"),
        (("--workload", "azure", "--file", __file__), "is not of the format azure"),
        (("--workload", "parquet", "--file", __file__), "no format parquet; there are"),
        (("--kv-tokens", "10"), "10 tokens are less than a block of 64"),
    ],
)
def test_a_wrong_choice_is_an_error_that_says_what_to_do(arguments: tuple[str, ...], problem: str) -> None:
    result = simulated(*arguments)
    assert result.exit_code == 1
    assert problem in result.output.replace("\n", " ")
