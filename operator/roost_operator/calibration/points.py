"""What is measured of an engine, and at which sizes. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

DECODE_STEPS = 24
"""Batches over which a decode step's time is averaged."""
PREFILL_PARTS = (64, 16, 4, 2)
"""Prompts of these parts of the longest context."""
DECODE_PARTS = (64, 8, 3)


@dataclass(frozen=True, slots=True)
class Engine:
    """The limits of an engine that decide what can be measured."""

    context_tokens: int
    kv_tokens: int
    max_running: int
    chunk_tokens: int
    """Most tokens of a prompt in one batch."""


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    """A prompt on an idle engine."""

    tokens: int
    """Computed."""
    cached: int
    """Before them, found in the cache."""
    seconds: float
    """From the request to the first token."""


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """Batches that only decode."""

    rows: int
    kv_tokens: int
    """Context of all rows, in the middle of the measurement."""
    seconds: float
    """Of one batch."""


def prefill_sizes(engine: Engine) -> Iterator[tuple[int, int]]:
    """Yield prompts to measure as (tokens to compute, tokens that are cached before)."""
    longest = engine.context_tokens - 2
    for part in PREFILL_PARTS:
        for cached in (0, longest // 4, longest // 2):
            yield min(max(1, longest // part), longest - cached), cached


def decode_sizes(engine: Engine) -> Iterator[tuple[int, int]]:
    """Yield batches to measure as (rows, tokens of each row's prompt), as far as they fit the KV and the context."""
    for rows in sorted({1, max(1, engine.max_running // 8), max(1, engine.max_running // 2), engine.max_running}):
        for part in DECODE_PARTS:
            prompt = max(1, engine.context_tokens // part)
            total = prompt + decode_output(engine, rows, prompt)
            if total <= engine.context_tokens and rows * total <= engine.kv_tokens:
                yield rows, prompt


def decode_output(engine: Engine, rows: int, prompt_tokens: int) -> int:
    """Return how many tokens each row has to generate so that all rows decode together for `DECODE_STEPS` batches: the
    first row begins while the prompts of the others are computed."""
    return DECODE_STEPS + rows + -(-rows * prompt_tokens // max(1, engine.chunk_tokens - rows))
