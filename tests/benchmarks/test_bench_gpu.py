"""The GPU's benchmark from end to end, on a CPU and small."""

import itertools
import json
import sys
from typing import Any

import gpu_parts
import pytest
from bench_gpu import main
from gpu_summary import Sizes

from roost_worker.engine.engine import Engine


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Any]:
    """Return the exit status and the JSON document, which is the last line of stdout."""
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--tiny", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    status = ended.value.code
    assert isinstance(status, int)
    output = capsys.readouterr().out
    return status, json.loads(output.splitlines()[-1]) if status < 2 else None


def test_every_part_has_its_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = run(monkeypatch, capsys, "--kernels", "torch", "auto", "--dtype", "float32")
    assert status == 0
    parts = document["parts"]
    for kernels in ("torch", "auto"):
        offline, decode, profile = (parts[part][kernels] for part in ("offline", "decode", "profile"))
        assert offline["is_complete"]
        assert 4 * 15 <= offline["output_tokens"] <= 4 * 25
        assert {rows: step["steps"] for rows, step in decode.items()} == {"1": 8, "4": 8}
        assert decode["4"]["tokens_per_second"] == pytest.approx(4e3 / decode["4"]["step_ms"], rel=0.05)
        assert profile["rows"] == 4
        assert profile["top"]
    assert parts["equal"] == {"auto": {"reference": "torch", "sequences": 4, "equal": 4, "first_difference": None}}
    assert document["goals"] == [{"goal": "auto: sequences of equal tokens", "at_least": 4, "measured": 4, "met": True}]


def test_a_difference_is_said_with_the_margin_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = gpu_parts.greedy_outputs
    calls = itertools.count()

    def altered(engine: Engine, sizes: Sizes, seconds: float) -> tuple[list[list[int]], list[list[int]]]:
        prompts, outputs = drawn(engine, sizes, seconds)
        if next(calls) == 1:
            outputs[2][7] += 1
        return prompts, outputs

    monkeypatch.setattr(gpu_parts, "greedy_outputs", altered)
    status, document = run(monkeypatch, capsys, "--parts", "equal", "--kernels", "torch", "auto")
    result = document["parts"]["equal"]["auto"]
    assert (status, result["equal"]) == (0, 3)
    assert (result["first_difference"]["sequence"], result["first_difference"]["token"]) == (2, 7)
    assert result["first_difference"]["margin_nats"] > 0
    assert not document["goals"][0]["met"]


def test_a_part_that_fails_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = run(monkeypatch, capsys, "--seconds", "0", "--parts", "decode", "offline")
    assert status == 1
    assert document["parts"]["decode"]["torch"]["error"].startswith("TimeoutError: 0 s were not enough")
    assert document["parts"]["offline"]["torch"]["is_complete"] is False


def test_sizes_that_cannot_be_measured_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, "--rows", "0") == (2, None)
