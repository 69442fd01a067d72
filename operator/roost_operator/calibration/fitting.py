"""Fits a worker's costs to measurements, by least squares. Pure."""

from collections.abc import Sequence
from math import ceil
from statistics import median

import numpy as np
from numpy.typing import NDArray

from roost_gateway.simulator.costs import WorkerCosts
from roost_operator.calibration.points import DecodePoint, PrefillPoint

Vector = NDArray[np.float64]
_LEAST_SECONDS = 1e-12
"""Of what costs nothing by the measurements, but has to in `WorkerCosts`."""


def fit_costs(prefills: Sequence[PrefillPoint], decodes: Sequence[DecodePoint], chunk_tokens: int) -> WorkerCosts:
    """Return the costs with the least squares of relative errors; none is below 0.

    A prompt takes a batch for each chunk, so the time of a batch is fitted first, from decoding.
    """
    decode_seconds = np.array([point.seconds for point in decodes])
    batches = np.array([(1.0, point.rows, point.kv_tokens) for point in decodes])
    step, row, kv = _factors(batches, decode_seconds, decode_seconds)
    prefill_seconds = np.array([point.seconds for point in prefills])
    prompts = np.array([(1.0, point.tokens, _pairs(point)) for point in prefills])
    in_batches = np.array([step * ceil(point.tokens / chunk_tokens) for point in prefills])
    prompt, token, pair = _factors(prompts, prefill_seconds - in_batches, prefill_seconds)
    return WorkerCosts(
        prompt_seconds=prompt,
        prefill_token_seconds=max(token, _LEAST_SECONDS),
        prefill_pair_seconds=pair,
        step_seconds=max(step, _LEAST_SECONDS),
        row_seconds=row,
        kv_token_seconds=kv,
        chunk_tokens=chunk_tokens,
    )


def fit_errors(
    costs: WorkerCosts, prefills: Sequence[PrefillPoint], decodes: Sequence[DecodePoint]
) -> tuple[float, float]:
    """Return by which part the costs miss the measured prompts and decode batches, in the median."""
    prompts = [_prompt_seconds(costs, point) / point.seconds - 1 for point in prefills]
    batches = [costs.batch_seconds(point.rows, point.kv_tokens) / point.seconds - 1 for point in decodes]
    return median(map(abs, prompts)), median(map(abs, batches))


def _prompt_seconds(costs: WorkerCosts, point: PrefillPoint) -> float:
    batches = ceil(point.tokens / costs.chunk_tokens)
    return batches * costs.step_seconds + costs.prefill_seconds(point.tokens, point.cached)


def _pairs(point: PrefillPoint) -> float:
    return point.tokens * (point.cached + point.tokens / 2)


def _factors(sizes: Vector, seconds: Vector, whole: Vector) -> list[float]:
    """Return the factors of the columns of `sizes` that come nearest to `seconds`, errors taken relative to `whole`.

    A factor that would be below 0 is 0, and the others are fitted without it.
    """
    relative, goal = sizes / whole[:, None], seconds / whole
    scale = np.linalg.norm(relative, axis=0)
    used = list(range(sizes.shape[1]))
    factors = np.zeros(sizes.shape[1])
    while used:
        solution = np.linalg.lstsq(relative[:, used] / scale[used], goal)[0] / scale[used]
        if solution.min() >= 0:
            factors[used] = solution
            break
        used.pop(int(solution.argmin()))
    return [float(factor) for factor in factors]
