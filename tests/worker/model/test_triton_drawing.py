"""Triton's kernels draw what torch's operators draw, whatever rows are beside. In the interpreter, without a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpreted_kernels import DEVICE
from roost_worker.model import drawing_triton
from roost_worker.model.drawing import Draws, TorchDrawing
from roost_worker.model.drawing_triton import TritonDrawing

VOCAB, TILE, FLOOR_TILE = 300, 128, 256
"""Of both kinds of tiles, the last one is not full."""
ROWS = 14
CUTS = (
    (0, 1.0, 0.0),
    (5, 1.0, 0.0),
    (0, 0.8, 0.0),
    (0, 1.0, 0.1),
    (20, 0.6, 0.02),
    (1, 0.9, 0.0),
    (VOCAB + 9, 1e-9, 0.0),
)
"""Top-k, top-p and min-p."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_triton, "TILE", TILE)
    monkeypatch.setattr(drawing_triton, "FLOOR_TILE", FLOOR_TILE)


def logits_of(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """No two of a row are equal, in any type."""
    random = torch.Generator().manual_seed(rows)
    return (
        torch.stack([torch.randperm(VOCAB, generator=random) for _ in range(rows)]).sub(200).div(16).to(DEVICE, dtype)
    )


def draws_of(rows: int = ROWS) -> "Draws[np.ndarray]":
    """Seeds of 64 bits, positions of up to 32, and all kinds of cuts at all temperatures but 0."""
    numbers = range(rows)
    cuts = [CUTS[number % len(CUTS)] for number in numbers]
    return Draws(
        temperatures=np.array([(0.3, 1.0, 1.7)[number % 3] for number in numbers]),
        seeds=np.array([(-1) ** number * (number << 58) + number for number in numbers]),
        positions=np.array([number * 250_000_000 for number in numbers]),
        top_ks=np.array([top_k for top_k, _, _ in cuts]),
        top_ps=np.array([top_p for _, top_p, _ in cuts]),
        min_ps=np.array([min_p for _, _, min_p in cuts]),
    )


def torchs(logits: torch.Tensor, draws: "Draws[np.ndarray]") -> list[int]:
    return [int(token) for token in TorchDrawing(VOCAB, DEVICE).draw(logits.float(), draws)]


def tritons(logits: torch.Tensor, draws: "Draws[np.ndarray]") -> list[int]:
    return [int(token) for token in TritonDrawing().draw(logits, draws)]


@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, ROWS), (torch.float16, 7), (torch.bfloat16, 7)])
def test_the_tokens_are_those_that_torch_draws(dtype: torch.dtype, rows: int) -> None:
    logits, draws = logits_of(rows, dtype), draws_of(rows)
    assert tritons(logits, draws) == torchs(logits, draws)


def test_noise_decides_among_equal_logits() -> None:
    """Where a mistake in the noise shows most: each token is as likely as any."""
    draws = draws_of(15).at(np.array([0, 7, 14]))
    logits = torch.zeros(3, VOCAB, device=DEVICE)
    drawn = tritons(logits, draws)
    assert drawn == torchs(logits, draws)
    assert len(set(drawn)) == 3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, VOCAB + 1), st.floats(0.01, 1.0), st.floats(0.0, 0.9), st.floats(0.1, 3.0), st.integers(0, 99))
def test_nothing_is_drawn_that_torch_cuts_off(top_k: int, top_p: float, min_p: float, heat: float, seed: int) -> None:
    """Noise that is the same in both shows only one of the tokens that are left; other seeds show others."""
    draws = Draws(
        temperatures=np.array([heat]),
        seeds=np.array([seed]),
        positions=np.array([1]),
        top_ks=np.array([top_k]),
        top_ps=np.array([top_p]),
        min_ps=np.array([min_p]),
    )
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    assert tritons(logits, draws) == torchs(logits, draws)


@pytest.mark.parametrize("rows", [[0], [7, 2], [3, 3, 11, 0, 5]])
def test_a_row_does_not_depend_on_its_batch(rows: list[int]) -> None:
    logits, draws = logits_of(), draws_of()
    expected = torchs(logits, draws)
    assert tritons(logits[rows], draws.at(np.array(rows))) == [expected[row] for row in rows]


def test_a_temperature_of_0_takes_the_largest_whatever_is_cut() -> None:
    logits = logits_of(3)
    draws = draws_of().at(np.array([0, 2, 4]))
    draws.temperatures[:] = 0.0
    drawing = TritonDrawing()
    assert tritons(logits, draws) == drawing.largest(logits).tolist() == logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("places", [(5, 9), (TILE - 1, TILE), (3, VOCAB - 1)])
def test_of_equal_logits_the_smallest_id_is_taken(places: tuple[int, int]) -> None:
    logits = torch.zeros(1, VOCAB, device=DEVICE)
    logits[0, list(places)] = 2.0
    assert TritonDrawing().largest(logits).tolist() == [min(places)]


def test_equal_logits_are_left_together() -> None:
    """Top-k 2, and top-p 0.5, end within the three tokens that share the second place."""
    logits = torch.full((2, VOCAB), -30.0, device=DEVICE)
    logits[:, [4, 130, 299]] = 1.0
    logits[:, 7] = 1.5
    chosen = set[int]()
    for seed in range(8):
        draws = draws_of(2)
        draws.temperatures[:], draws.seeds[:], draws.top_ks[:], draws.top_ps[:] = 3.0, seed, (2, 0), (1.0, 0.5)
        draws.min_ps[:] = 0.0
        chosen |= set(tritons(logits, draws))
    assert chosen == {4, 7, 130, 299}


@pytest.mark.parametrize("allowed", [0, TILE, VOCAB - 1])
def test_a_forbidden_token_is_not_drawn(allowed: int) -> None:
    logits = torch.full((7, VOCAB), float("-inf"), device=DEVICE)
    logits[:, allowed] = -30.0
    assert TritonDrawing().largest(logits[:1]).tolist() == [allowed]
    assert set(tritons(logits, draws_of(7))) == {allowed}


@pytest.mark.parametrize("broken", [slice(0, VOCAB), slice(1, VOCAB, 2)])
def test_nothing_behind_the_vocabulary_is_drawn_where_logits_are_nan(broken: slice) -> None:
    """Its id would end the worker: the next step would read an embedding that there is not."""
    logits, draws = logits_of(7), draws_of(7)
    logits[:, broken] = float("nan")
    for tokens in (TritonDrawing().largest(logits).tolist(), tritons(logits, draws)):
        assert all(0 <= token < VOCAB for token in tokens)


def test_the_largest_logit_is_left_by_any_min_p() -> None:
    """Also where it is -0.0, which is 0.0."""
    logits = torch.full((1, VOCAB), -1.0, device=DEVICE)
    logits[0, 200] = -0.0
    draws = draws_of(4).at(np.array([3]))
    draws.min_ps[:] = 1.0
    assert tritons(logits, draws) == [200]
