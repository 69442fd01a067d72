"""The parts of the GPU's benchmark, each measured on an engine that is open. They raise where there is no number."""

import random
import time
from collections.abc import Iterable
from typing import Any

from device_profile import profile_steps
from engine_in_process import Requests
from gpu_summary import CONTEXT, Sizes, host_share

from roost_worker.engine.engine import Engine

WARM_STEPS = 8
"""Steps before those that are measured: kernels are compiled, and graphs captured, on first use."""
WARM_SEQUENCES = 8


def offline(engine: Engine, sizes: Sizes, seconds: float, temperature: float) -> dict[str, Any]:
    """All sequences are there from the start; tokens of output over the time until the last has ended."""
    lengths = random.Random("offline")
    warm = [sizes.shortest] * min(WARM_SEQUENCES, sizes.sequences)
    run_for(Requests(engine, _prompts(engine, "warm", warm), warm, temperature=temperature), seconds)
    inputs, outputs = ([_length(lengths, sizes) for _ in range(sizes.sequences)] for _ in range(2))
    started = time.perf_counter()
    requests = Requests(engine, _prompts(engine, "offline", inputs), outputs, temperature=temperature)
    is_complete = run_for(requests, seconds)
    elapsed = time.perf_counter() - started
    return {
        "tokens_per_second": round(requests.tokens / elapsed, 1),
        "output_tokens": requests.tokens,
        "prompt_tokens": sum(inputs),
        "seconds": round(elapsed, 3),
        "is_complete": is_complete,
    }


def decode(engine: Engine, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """By the number of rows: tokens per second, and how a step's time divides between device and host."""
    return {str(rows): _decode(engine, sizes, rows, seconds / len(sizes.rows)) for rows in sizes.rows}


def _decode(engine: Engine, sizes: Sizes, rows: int, seconds: float) -> dict[str, Any]:
    requests = _decoding(engine, sizes, rows, seconds)
    before, steps, started = requests.tokens, 0, time.perf_counter()
    while steps < sizes.steps and time.perf_counter() - started < seconds:
        requests.step()
        steps += 1
    elapsed = time.perf_counter() - started
    tokens = requests.tokens - before
    busy = profile_steps(requests.step, sizes.profiled_steps).busy_seconds
    share = host_share(elapsed / steps, busy)
    requests.cancel()
    return {
        "tokens_per_second": round(tokens / elapsed, 1),
        "steps": steps,
        "step_ms": _milliseconds(elapsed / steps),
        "busy_ms": _milliseconds(busy),
        "host_share": None if share is None else round(share, 3),
    }


def profile(engine: Engine, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """What a step with the most rows consists of."""
    rows = max(sizes.rows)
    requests = _decoding(engine, sizes, rows, seconds)
    profiled = profile_steps(requests.step, sizes.profiled_steps)
    requests.cancel()
    return {
        "rows": rows,
        "busy_ms": _milliseconds(profiled.busy_seconds),
        "launches": profiled.launches,
        "kernels": profiled.kernels,
        "top": profiled.top,
    }


def greedy_outputs(engine: Engine, sizes: Sizes, seconds: float) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and their whole outputs. Raise TimeoutError when the time is not enough for them."""
    prompts = _prompts(engine, "equal", [sizes.equal_prompt] * sizes.equal_sequences)
    requests = Requests(engine, prompts, [sizes.equal_output] * len(prompts))
    if not run_for(requests, seconds):
        raise TimeoutError(f"{seconds:g} s were not enough for the outputs to compare; raise --seconds")
    return prompts, requests.outputs


def run_for(requests: Requests, seconds: float) -> bool:
    """Run requests to their ends, or cancel them after so many seconds. Return whether all came to their ends."""
    deadline = time.perf_counter() + seconds
    while requests.running and time.perf_counter() < deadline:
        requests.step()
    is_complete = not requests.running
    requests.cancel()
    return is_complete


def _decoding(engine: Engine, sizes: Sizes, rows: int, seconds: float) -> Requests:
    """Start sequences, and return them when all of them decode and the device is warm."""
    prompts = _prompts(engine, "decode", [sizes.prompt] * rows)
    requests = Requests(engine, prompts, [CONTEXT - sizes.prompt] * rows)
    deadline = time.perf_counter() + seconds
    while not all(requests.outputs):
        if time.perf_counter() > deadline:
            requests.cancel()
            raise TimeoutError(f"{seconds:g} s were not enough for the first tokens of {rows} rows; raise --seconds")
        requests.step()
    for _ in range(WARM_STEPS):
        requests.step()
    return requests


def _prompts(engine: Engine, seed: str, lengths: Iterable[int]) -> list[list[int]]:
    ids, vocabulary = random.Random(seed), range(engine.info.vocab_size)
    return [ids.choices(vocabulary, k=length) for length in lengths]


def _length(lengths: random.Random, sizes: Sizes) -> int:
    return lengths.randint(sizes.shortest, sizes.longest)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
