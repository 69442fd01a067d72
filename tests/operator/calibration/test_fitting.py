"""Costs fitted to measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.costs import WorkerCosts
from roost_operator.calibration.fitting import fit_costs, fit_errors
from roost_operator.calibration.points import DecodePoint, Engine, PrefillPoint, decode_sizes, prefill_sizes

ENGINE = Engine(context_tokens=8192, kv_tokens=1_000_000, max_running=32, chunk_tokens=256)


def points_of(costs: WorkerCosts, noise: float = 0.0) -> tuple[list[PrefillPoint], list[DecodePoint]]:
    """What an engine with exactly these costs would measure; every other measurement is off by `noise`."""
    prefills = []
    for number, (tokens, cached) in enumerate(prefill_sizes(ENGINE)):
        seconds = costs.prefill_seconds(tokens, cached) + -(-tokens // costs.chunk_tokens) * costs.step_seconds
        prefills.append(PrefillPoint(tokens, cached, seconds * (1 + noise * (number % 2))))
    decodes = []
    for number, (rows, prompt) in enumerate(decode_sizes(ENGINE)):
        seconds = costs.batch_seconds(rows, rows * prompt)
        decodes.append(DecodePoint(rows, rows * prompt, seconds * (1 + noise * (number % 2))))
    return prefills, decodes


def costs_strategy() -> st.SearchStrategy[WorkerCosts]:
    """Each factor is 0 or makes a visible part of what is measured."""

    def factor(least: float, most: float) -> st.SearchStrategy[float]:
        return st.just(0.0) | st.floats(least, most)

    return st.builds(
        WorkerCosts,
        prompt_seconds=factor(1e-3, 1e-2),
        prefill_token_seconds=st.floats(1e-5, 1e-3),
        prefill_pair_seconds=factor(1e-8, 1e-7),
        step_seconds=st.floats(1e-3, 5e-2),
        row_seconds=factor(1e-4, 1e-3),
        kv_token_seconds=factor(1e-7, 1e-6),
        chunk_tokens=st.just(256),
    )


@given(costs_strategy())
def test_exact_measurements_give_the_costs_back(costs: WorkerCosts) -> None:
    prefills, decodes = points_of(costs)
    fitted = fit_costs(prefills, decodes, 256)
    assert max(fit_errors(fitted, prefills, decodes)) < 1e-6
    assert fitted.step_seconds == pytest.approx(costs.step_seconds, rel=1e-6)
    assert fitted.prefill_token_seconds == pytest.approx(costs.prefill_token_seconds, rel=1e-5)


@given(costs_strategy(), st.floats(-0.3, 0.3))
def test_no_cost_is_below_0_whatever_the_noise(costs: WorkerCosts, noise: float) -> None:
    prefills, decodes = points_of(costs, noise)
    fitted = fit_costs(prefills, decodes, 256)
    assert min(fitted.prompt_seconds, fitted.prefill_pair_seconds, fitted.row_seconds, fitted.kv_token_seconds) >= 0
    assert max(fit_errors(fitted, prefills, decodes)) <= 0.35


@given(st.integers(64, 200_000), st.integers(1, 4_000_000), st.integers(1, 512), st.integers(1, 8192))
def test_what_is_measured_fits_the_engine(context: int, kv: int, max_running: int, chunk: int) -> None:
    engine = Engine(context, max(kv, context), max_running, max(chunk, max_running + 1))
    for tokens, cached in prefill_sizes(engine):
        assert tokens >= 1
        assert tokens + cached < context
    for rows, prompt in decode_sizes(engine):
        assert 1 <= rows <= max_running
        assert prompt >= 1
        assert rows * prompt < engine.kv_tokens
