"""What every peer process does: say what it is, then measure one cell per line of stdin. Runs in any environment."""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

MARK = "@@ "
"""Begins the lines that are answers; everything else on stdout is a library's talk."""


class Progress:
    """What a measurement has seen: the tokens of every row, and when all rows were running."""

    def __init__(self, batch: int, then: int) -> None:
        """Done when each of `batch` rows has had its first token and `then` more since the last row had its own."""
        self._counts = [0] * batch
        self._goals = [1] * batch
        self._then = then
        self._full_counts: list[int] | None = None
        self.started = self.full = self.ended = time.perf_counter()
        self.done = False

    def add(self, new: dict[int, int]) -> None:
        """Takes the number of tokens that each row got from one step of the engine."""
        for row, tokens in new.items():
            self._counts[row] += tokens
        self.ended = time.perf_counter()
        if self._full_counts is None and self._reached():
            self.full = self.ended
            self._full_counts = list(self._counts)
            self._goals = [count + self._then for count in self._counts]
        self.done = self._full_counts is not None and self._reached()

    def _reached(self) -> bool:
        return all(count >= goal for count, goal in zip(self._counts, self._goals, strict=True))

    @property
    def tokens_since_full(self) -> int:
        """Tokens of all rows since the last row's first."""
        return sum(self._counts) - sum(self._full_counts or self._counts)


Generate = Callable[[Sequence[list[int]], int, Progress], None]
"""Runs prompts, each to a number of output tokens at most, tells Progress of every step, and stops when it is done."""


def settings() -> dict[str, Any]:
    """The parent's arguments for this peer."""
    parsed: dict[str, Any] = json.loads(sys.argv[1])
    return parsed


def serve(about: dict[str, Any], vocab_size: int, generate: Generate) -> None:
    """Answers until stdin closes. Prompts are random and new in every measurement: nothing may be cached."""
    _answer(about)
    for line in sys.stdin:
        cell = json.loads(line)
        random.seed(f"{cell['seed']} {cell['phase']}")
        prompts = [random.choices(range(vocab_size), k=cell["prompt"]) for _ in range(cell["batch"])]
        measure = {"prefill": _measure_prefill, "decode": _measure_decode}[cell["phase"]]
        _answer({"tokens_per_second": measure(prompts, cell["output"], generate)})


def _measure_prefill(prompts: Sequence[list[int]], _output: int, generate: Generate) -> float:
    progress = _run(prompts, 1, generate, then=0)
    return sum(map(len, prompts)) / (progress.full - progress.started)


def _measure_decode(prompts: Sequence[list[int]], output: int, generate: Generate) -> float:
    most = settings()["context"] - len(prompts[0])
    progress = _run(prompts, most, generate, then=output - 1)
    return progress.tokens_since_full / (progress.ended - progress.full)


def _run(prompts: Sequence[list[int]], most: int, generate: Generate, then: int) -> Progress:
    progress = Progress(len(prompts), then)
    generate(prompts, most, progress)
    if not progress.done:
        raise RuntimeError(f"rows of at most {most} tokens ended before the last one was measured")
    return progress


def _answer(document: dict[str, Any]) -> None:
    print(MARK + json.dumps(document), flush=True)
