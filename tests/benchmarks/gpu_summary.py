"""What the GPU's benchmark measures at which sizes, and what it concludes: device time, equal tokens, goals. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from figures import judged

PARTS = ("offline", "decode", "profile", "equal")
CONTEXT = 4096
"""Longest sequence, in tokens, as in nano-vllm's benchmark."""
GOAL_ROWS = 32
OFFLINE_RATE = 20_000.0
"""Tokens of output per second, on one H100 or H200."""
DECODE_RATE = 8 * 2885.0
"""Tokens per second at 32 rows: eight times what an H200 gave on 2026-11-26 (LOG.md)."""
HOST_SHARE = 0.10
NAME_LENGTH = 80
"""Letters that are kept of a name in a profile: kernels that are C++ templates have hundreds."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured; lengths are in tokens."""

    shape: str
    """Of the model: a name in `model_shapes.SHAPES`."""
    sequences: int
    """Of `offline`. As many run at once."""
    shortest: int
    longest: int
    """Prompts and outputs of `offline` are of random lengths from `shortest` to `longest`."""
    rows: tuple[int, ...]
    """Sequences that decode together in `decode`; the largest number in `profile`."""
    prompt: int
    """What each of these rows has behind it."""
    steps: int
    """Steps that are timed for each number of rows."""
    profiled_steps: int
    equal_sequences: int
    equal_prompt: int
    equal_output: int
    batch_tokens: int
    """Most tokens of a batch."""
    kv_bytes: int | None
    """Memory for KV; None for what the worker takes by itself."""

    def __post_init__(self) -> None:
        """Raise ValueError, which names the size, where nothing could be measured or a sequence would be too long."""
        if not 1 <= self.shortest <= self.longest <= CONTEXT // 2:
            raise ValueError(f"lengths {self.shortest} {self.longest}: must go up, from 1 to {CONTEXT // 2} at most")
        if min(self.rows, default=0) < 1:
            raise ValueError(f"rows {self.rows}: must be numbers of at least 1")
        for name in ("sequences", "prompt", "steps", "profiled_steps", "equal_sequences", "equal_prompt"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.prompt + self.steps + self.profiled_steps > CONTEXT // 2:
            raise ValueError(f"prompt, steps and profiled_steps: must be {CONTEXT // 2} at most together")
        if not 1 <= self.equal_output <= CONTEXT - self.equal_prompt:
            raise ValueError(f"equal_output {self.equal_output}: must be at least 1, and {CONTEXT} with equal_prompt")
        if self.batch_tokens < self.most_running:
            raise ValueError(f"batch_tokens {self.batch_tokens}: must be at least {self.most_running}, the rows")

    @property
    def most_running(self) -> int:
        """Sequences that run at once at most."""
        return max(self.sequences, self.equal_sequences, *self.rows)


PUBLISHED = Sizes(
    shape="qwen3-0.6b",
    sequences=256,
    shortest=100,
    longest=1024,
    rows=(1, 8, GOAL_ROWS),
    prompt=512,
    steps=64,
    profiled_steps=10,
    equal_sequences=32,
    equal_prompt=200,
    equal_output=128,
    batch_tokens=16384,
    kv_bytes=None,
)
TINY = Sizes(
    shape="llama-tiny",
    sequences=4,
    shortest=15,
    longest=25,
    rows=(1, 4),
    prompt=20,
    steps=8,
    profiled_steps=2,
    equal_sequences=4,
    equal_prompt=20,
    equal_output=20,
    batch_tokens=256,
    kv_bytes=64 << 20,
)


def busy_time(intervals: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the intervals (start, end) lasted."""
    busy, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def host_share(step_seconds: float, busy_seconds: float | None) -> float | None:
    """Return the share of a step in which the device waits for the host; None where no device time is known."""
    return None if busy_seconds is None else max(0.0, 1.0 - busy_seconds / step_seconds)


def longest_first(times: Iterable[tuple[str, float]], steps: int, most: int) -> list[dict[str, Any]]:
    """Sum (name, microseconds) by name, a step, and return the `most` names with the largest sums."""
    sums, calls = Counter[str](), Counter[str]()
    for name, microseconds in times:
        sums[name] += microseconds
        calls[name] += 1
    return [
        {"name": name[:NAME_LENGTH], "calls": round(calls[name] / steps, 1), "microseconds": round(total / steps, 1)}
        for name, total in sums.most_common(most)
    ]


def agreement(expected: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Count the sequences whose tokens are those expected; of the others, say where the earliest difference is.

    A sequence that is shorter differs where it ends.
    """
    differences = [
        {"token": token, "sequence": number}
        for number, pair in enumerate(zip(expected, drawn, strict=True))
        if (token := _first_difference(*pair)) is not None
    ]
    first = min(differences, key=lambda difference: difference["token"], default=None)
    return {"sequences": len(expected), "equal": len(expected) - len(differences), "first_difference": first}


def _first_difference(expected: Sequence[int], drawn: Sequence[int]) -> int | None:
    if list(expected) == list(drawn):
        return None
    both = zip(expected, drawn, strict=False)
    shorter = min(len(expected), len(drawn))
    return next((index for index, (token, other) in enumerate(both) if token != other), shorter)


def judged_goals(parts: Mapping[str, Mapping[str, Any]], *, is_published: bool) -> list[dict[str, Any]]:
    """Return the goals for which there is a number, for each choice of kernels.

    Args:
        parts: what each part measured, by kernels; of a part that failed, without its numbers.
        is_published: whether the sizes and the device are those that the goals of speed are about.
    """
    goals: list[dict[str, Any]] = []
    for kernels, equal in parts.get("equal", {}).items():
        if "equal" in equal:
            goal = f"{kernels}: sequences of equal tokens"
            goals.append(judged(goal, equal["equal"], at_least=equal["sequences"]))
    if not is_published:
        return goals
    for kernels, offline in parts.get("offline", {}).items():
        if "tokens_per_second" in offline:
            goals.append(judged(f"{kernels}: offline, tokens/s", offline["tokens_per_second"], at_least=OFFLINE_RATE))
    for kernels, decode in parts.get("decode", {}).items():
        if step := decode.get(str(GOAL_ROWS)):
            goal = f"{kernels}: decode at {GOAL_ROWS} rows"
            goals.append(judged(f"{goal}, tokens/s", step["tokens_per_second"], at_least=DECODE_RATE))
            if step["host_share"] is not None:
                goals.append(judged(f"{goal}, host's share", step["host_share"], at_most=HOST_SHARE))
    return goals
