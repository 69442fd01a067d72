"""What every peer process does: say what it is, then measure one cell per line of stdin. Runs in any environment."""

import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MARK = "@@ "
"""Begins the lines that are answers; everything else on stdout is a library's talk."""


class Progress:
    """What a measurement has seen: the tokens of every row, and when all rows were running."""

    def __init__(self, rows: Iterable[str], then: int) -> None:
        """Done when each of `rows` has had its first token and `then` more since the last row had its own."""
        self._counts = dict.fromkeys(rows, 0)
        self._goals = dict.fromkeys(self._counts, 1)
        self._then = then
        self._full_counts: dict[str, int] | None = None
        self.started = self.full = self.ended = time.perf_counter()
        self.done = False

    def add(self, new: Mapping[str, int]) -> None:
        """Takes the number of tokens that each row got from one step of the engine."""
        for row, tokens in new.items():
            self._counts[row] += tokens
        self.ended = time.perf_counter()
        if self._full_counts is None and self._reached():
            self.full = self.ended
            self._full_counts = dict(self._counts)
            self._goals = {row: count + self._then for row, count in self._counts.items()}
        self.done = self._full_counts is not None and self._reached()

    def _reached(self) -> bool:
        return all(count >= self._goals[row] for row, count in self._counts.items())

    @property
    def tokens_since_full(self) -> int:
        """Tokens of all rows since the last row's first."""
        return sum(self._counts.values()) - sum((self._full_counts or self._counts).values())


Prompts = Mapping[str, list[int]]
"""Token ids of each row, by a name that no other row of this process has."""

Generate = Callable[[Prompts, int, Progress], None]
"""Runs prompts, each to a number of output tokens at most, tells Progress of every step, and stops when it is done."""


def settings() -> dict[str, Any]:
    """The parent's arguments for this peer."""
    parsed: dict[str, Any] = json.loads(sys.argv[1])
    return parsed


def serve(about: dict[str, Any], vocab_size: int, generate: Generate) -> None:
    """Answers until stdin closes. Prompts are random and new in every measurement: nothing may be cached."""
    _answer(about)
    names = map(str, itertools.count())
    for line in sys.stdin:
        cell = json.loads(line)
        random.seed(f"{cell['seed']} {cell['phase']}")
        prompts = {next(names): random.choices(range(vocab_size), k=cell["prompt"]) for _ in range(cell["batch"])}
        if cell["phase"] == "prefill":
            rate = _measure_prefill(prompts, generate)
        else:
            rate = _measure_decode(prompts, cell["output"], settings()["context"] - cell["prompt"], generate)
        _answer({"tokens_per_second": rate})


def _measure_prefill(prompts: Prompts, generate: Generate) -> float:
    progress = _run(prompts, 1, generate, then=0)
    return sum(map(len, prompts.values())) / (progress.full - progress.started)


def _measure_decode(prompts: Prompts, output: int, most: int, generate: Generate) -> float:
    progress = _run(prompts, most, generate, then=output - 1)
    return progress.tokens_since_full / (progress.ended - progress.full)


def _run(prompts: Prompts, most: int, generate: Generate, then: int) -> Progress:
    progress = Progress(prompts, then)
    generate(prompts, most, progress)
    if not progress.done:
        raise RuntimeError(f"rows of at most {most} tokens ended before the last one was measured")
    return progress


def _answer(document: dict[str, Any]) -> None:
    print(MARK + json.dumps(document), flush=True)
