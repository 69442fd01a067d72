"""What every peer process does: say what it is, then measure one cell per line of stdin. Runs in any environment."""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

MARK = "@@ "
"""Begins the lines that are answers; everything else on stdout is a library's talk."""

_ATTEMPTS = 3

Generate = Callable[[Sequence[list[int]], int], Sequence[int]]
"""Runs prompts to a number of output tokens each; returns how many each got."""


def settings() -> dict[str, Any]:
    """The parent's arguments for this peer."""
    parsed: dict[str, Any] = json.loads(sys.argv[1])
    return parsed


def serve(about: dict[str, Any], vocab_size: int, generate: Generate) -> None:
    """Answers until stdin closes. Prompts are random and new in every measurement: nothing may be cached."""
    _answer(about)
    for line in sys.stdin:
        cell = json.loads(line)
        random.seed(cell["seed"])
        _answer(_measure_both(cell, vocab_size, generate))


def _measure_both(cell: dict[str, int], vocab_size: int, generate: Generate) -> dict[str, float]:
    for _ in range(_ATTEMPTS):
        prefill = _measure(cell, 1, vocab_size, generate)
        whole = _measure(cell, cell["output"], vocab_size, generate)
        if whole > prefill:
            return {"prefill_seconds": prefill, "whole_seconds": whole}
    raise RuntimeError(f"one token took longer than {cell['output']}, {_ATTEMPTS} times: the machine is too busy")


def _measure(cell: dict[str, int], output: int, vocab_size: int, generate: Generate) -> float:
    prompts = [random.choices(range(vocab_size), k=cell["prompt"]) for _ in range(cell["batch"])]
    started = time.perf_counter()
    counts = generate(prompts, output)
    seconds = time.perf_counter() - started
    if list(counts) != [output] * cell["batch"]:
        raise RuntimeError(f"{output} tokens were asked for, {counts} came")
    return seconds


def _answer(document: dict[str, Any]) -> None:
    print(MARK + json.dumps(document), flush=True)
