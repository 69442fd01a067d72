"""What gpu.sh says of its steps."""

import json
from pathlib import Path

import pytest
from gpu_report import goals_of, read_step

GOAL = {"goal": "torch: offline, tokens/s", "at_least": 20000.0, "measured": 1.0, "met": False}


@pytest.mark.parametrize(("status", "outcome"), [(0, "passed"), (1, "failed (1)"), (124, "timed out")])
def test_tests_are_summed_up_by_their_last_line(tmp_path: Path, status: int, outcome: str) -> None:
    (tmp_path / "tests.log").write_text("....\n\n==== 4 passed in 1.2s ====\n\n")
    step = read_step(f"tests\t{status}\t7\t\n", tmp_path)
    assert (step.outcome, step.seconds, step.summary, step.document) == (outcome, 7, "4 passed in 1.2s", None)


def test_the_last_document_is_found_whatever_follows_it(tmp_path: Path) -> None:
    document = {"benchmark": "gpu", "goals": [GOAL, {**GOAL, "met": True}]}
    (tmp_path / "bench.log").write_text(
        '{"benchmark": "other"}\n' + json.dumps(document) + "ERROR: by a library\nmore\n"
    )
    step = read_step("bench\t1\t7\t\n", tmp_path)
    assert step.document == document
    assert step.summary == "1 of 2 goals met"
    assert goals_of([step]) == document["goals"]


def test_a_step_that_was_left_out_says_why(tmp_path: Path) -> None:
    step = read_step("bench\t1\t0\tpackages are missing\n", tmp_path)
    assert (step.outcome, step.summary) == ("left out", "packages are missing")


@pytest.mark.parametrize("device", ["NVIDIA H200", "cpu"])
def test_prefill_on_a_gpu_is_judged_by_the_worst_cell_of_each_choice_of_kernels(tmp_path: Path, device: str) -> None:
    cells = [
        {"roost-torch": 120.0, "roost-triton": 95.0, "transformers": 100.0},
        {"roost-torch": 17.0, "transformers": 20.0},
    ]
    medians = {
        str(number): {"prefill": {engine: {"median": rate} for engine, rate in cell.items()}, "decode": {}}
        for number, cell in enumerate(cells)
    }
    document = {
        "benchmark": "engine",
        "engines": {"transformers": {"device": device}},
        "tokens_per_second": {"nothing": medians},
    }
    (tmp_path / "bench.log").write_text(json.dumps(document))
    goals = goals_of([read_step("bench\t0\t7\t\n", tmp_path)])
    if device == "cpu":
        assert goals == []
        return
    assert [(goal["goal"], goal["measured"], goal["met"]) for goal in goals] == [
        ("roost-torch: prefill of transformers', worst cell", 0.85, False),
        ("roost-triton: prefill of transformers', worst cell", 0.95, True),
    ]
