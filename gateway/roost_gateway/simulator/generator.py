"""Sessions drawn at random from fitted distributions (`fitted.json`, written by `fit.py`). Pure but for reading that.

A session's turns are drawn as they are asked for, from a generator of its own, so that a million sessions take little
memory and a session is the same whatever happens to others.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import expm1, log1p
from pathlib import Path
from typing import Any

from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn

RANKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Where distributions are fitted: each is its values at these ranks, with logarithms interpolated between."""
Quantiles = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class After:
    """A turn after one of a kind: a tool call, or an answer."""

    calls_tool: float
    """Probability that it ends in a tool call."""
    new_tokens: Quantiles
    gap_seconds: Quantiles


@dataclass(frozen=True, slots=True)
class Parameters:
    """What sessions are drawn from."""

    turns: Quantiles
    prefix_tokens: tuple[int, ...]
    """Sizes of the prefixes that sessions share, equally likely."""
    first_tokens: Quantiles
    """New tokens of the first turn."""
    first_calls_tool: float
    after_tool: After
    after_answer: After
    tool_call_tokens: Quantiles
    """Output of a turn that ends in a tool call."""
    answer_tokens: Quantiles
    compaction: float
    """Probability that a turn keeps no more than the prefix."""
    compacted_tokens: Quantiles
    """New tokens of such a turn."""
    longest_context: int
    """A turn that would exceed it is a compaction."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Parameters":
        """Read parameters from JSON's types."""
        kinds = {name: After(**_tuples(document[name])) for name in ("after_tool", "after_answer")}
        return cls(**{**_tuples(document), **kinds})


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def fitted_parameters() -> Parameters:
    """Return the committed fit: coding agents, from the tuning half of the project's session file."""
    return Parameters.of(json.loads(Path(__file__).with_name("fitted.json").read_text()))


def generate(parameters: Parameters, seed: int) -> Iterator[Session]:
    """Return sessions without end."""
    for number in count():
        draws = _Draws(seed, number)
        kind = int(draws.uniform() * len(parameters.prefix_tokens))
        prefix_tokens = parameters.prefix_tokens[kind]
        turns = GeneratedTurns(parameters, seed, number, prefix_tokens)
        yield Session(f"session-{number}", turns, f"prefix-{kind}", prefix_tokens)


@dataclass(frozen=True, slots=True)
class GeneratedTurns:
    """The turns of the session with a number. Each iteration draws the same ones again."""

    parameters: Parameters
    seed: int
    number: int
    prefix_tokens: int

    def __iter__(self) -> Iterator[Turn]:
        parameters, draws = self.parameters, _Draws(self.seed, self.number)
        draws.uniform()  # has drawn the prefix
        context = self.prefix_tokens
        after: After | None = None
        for _ in range(max(1, round(draws.value(parameters.turns)))):
            turn = self._turn(draws, after, context)
            yield turn
            context = min(turn.kept_tokens, context) + turn.new_tokens + turn.output_tokens
            after = parameters.after_tool if turn.calls_tool else parameters.after_answer

    def _turn(self, draws: "_Draws", after: After | None, context: int) -> Turn:
        parameters = self.parameters
        calls_tool = draws.uniform() < (parameters.first_calls_tool if after is None else after.calls_tool)
        output = draws.tokens(parameters.tool_call_tokens if calls_tool else parameters.answer_tokens)
        if after is None:
            new, gap, compacts = draws.tokens(parameters.first_tokens), 0.0, False
        else:
            new, gap = draws.tokens(after.new_tokens), draws.value(after.gap_seconds)
            compacts = draws.uniform() < parameters.compaction
        room = parameters.longest_context - output
        if after is not None and (compacts or context + new > room):
            new = draws.tokens(parameters.compacted_tokens)
            return Turn(self.prefix_tokens, max(1, min(new, room - self.prefix_tokens)), output, gap, calls_tool)
        return Turn(ALL_TOKENS, max(1, min(new, room - context)), output, gap, calls_tool)


class _Draws:
    """SplitMix64, whose state is one number; equal on all machines."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, number: int) -> None:
        self._state = _mixed(_mixed(seed & _MASK) ^ number)

    def uniform(self) -> float:
        """Return a number from 0 up to 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return (_mixed(self._state) >> 11) * 2.0**-53

    def value(self, quantiles: Sequence[float]) -> float:
        return quantile(quantiles, self.uniform())

    def tokens(self, quantiles: Sequence[float]) -> int:
        return max(1, round(self.value(quantiles)))


_MASK = 2**64 - 1


def _mixed(value: int) -> int:
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def quantile(quantiles: Sequence[float], rank: float) -> float:
    """Return the value at a rank from 0 to 1, between those at `RANKS`."""
    upper = max(1, bisect_left(RANKS, rank))
    low, high = quantiles[upper - 1], quantiles[upper]
    part = (rank - RANKS[upper - 1]) / (RANKS[upper] - RANKS[upper - 1])
    return expm1(log1p(low) + part * (log1p(high) - log1p(low)))
