"""Triton's kernels draw what torch's operators draw, whatever rows are beside. In the interpreter, without a GPU."""

import pytest
import torch

from interpreted_kernels import DEVICE
from roost_worker.model import counter_rng
from roost_worker.model.drawing import DrawInputs, TorchDrawing
from roost_worker.model.drawing_triton import TILE, TritonDrawing

VOCAB = TILE + 700
TEMPERATURES = (0.0, 0.3, 1.0, 1.7)
ROWS = 12


def logits_of(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    normal = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows)) * 3
    return normal.to(DEVICE, dtype)


def inputs_of(rows: int = ROWS, first: int = 0) -> DrawInputs:
    """Seeds of 64 bits and positions of up to 32."""
    numbers = range(first, first + rows)
    return DrawInputs(
        torch.tensor([TEMPERATURES[n % 4] for n in numbers], dtype=torch.float64, device=DEVICE),
        torch.tensor([(-1) ** n * (n << 56) + n for n in numbers], device=DEVICE),
        torch.tensor([n * 150_000_000 for n in numbers], device=DEVICE),
    )


def pick(inputs: DrawInputs, rows: list[int]) -> DrawInputs:
    return DrawInputs(inputs.temperatures[rows], inputs.seeds[rows], inputs.positions[rows])


def torchs(logits: torch.Tensor, inputs: DrawInputs) -> list[int]:
    drawing = TorchDrawing(counter_rng.token_words(torch.arange(logits.shape[1], device=DEVICE)))
    tokens = drawing.largest(logits)
    rows = inputs.temperatures.nonzero().flatten().tolist()
    tokens[rows] = drawing.random(logits[rows].float(), pick(inputs, rows))
    return [int(token) for token in tokens]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tokens_are_those_that_torch_draws(dtype: torch.dtype) -> None:
    logits, inputs = logits_of(dtype=dtype), inputs_of()
    drawn = TritonDrawing().draw(logits, inputs).tolist()
    assert drawn == torchs(logits, inputs)
    assert max(drawn) >= TILE  # both tiles have a say
    assert min(drawn) < TILE


def test_noise_decides_among_equal_logits() -> None:
    """Where a mistake in the noise shows most: each token is as likely as any."""
    logits, inputs = torch.zeros(ROWS, VOCAB, device=DEVICE), inputs_of(first=13)
    drawn = TritonDrawing().draw(logits, inputs).tolist()
    assert drawn == torchs(logits, inputs)
    assert len(set(drawn)) > ROWS // 2


@pytest.mark.parametrize("rows", [[0], [7, 2], [3, 3, 11, 0, 5]])
def test_a_row_does_not_depend_on_its_batch(rows: list[int]) -> None:
    logits, inputs = logits_of(), inputs_of()
    expected = torchs(logits, inputs)
    assert TritonDrawing().draw(logits[rows], pick(inputs, rows)).tolist() == [expected[row] for row in rows]


@pytest.mark.parametrize("places", [(5, 9), (TILE - 1, TILE), (3, TILE + 3)])
def test_of_equal_logits_the_smallest_id_is_taken(places: tuple[int, int]) -> None:
    logits = torch.zeros(1, VOCAB, device=DEVICE)
    logits[0, list(places)] = 2.0
    assert TritonDrawing().largest(logits).tolist() == [min(places)]


@pytest.mark.parametrize("allowed", [0, TILE, VOCAB - 1])
def test_a_forbidden_token_is_not_drawn(allowed: int) -> None:
    logits = torch.full((1, VOCAB), float("-inf"), device=DEVICE)
    logits[0, allowed] = -30.0
    drawing = TritonDrawing()
    assert drawing.largest(logits).tolist() == [allowed]
    assert drawing.random(logits, pick(inputs_of(), [2])).tolist() == [allowed]


def test_temperatures_above_0_draw_from_the_softmax() -> None:
    """Two tokens, in different tiles, with odds of 3 to 1."""
    logits = torch.full((100, VOCAB), float("-inf"), device=DEVICE)
    logits[:, 1] = torch.tensor(3.0).log() * 0.5
    logits[:, VOCAB - 1] = 0.0
    ones = torch.ones(100, dtype=torch.int64, device=DEVICE)
    inputs = DrawInputs(ones.double() * 0.5, ones, torch.arange(100, device=DEVICE))
    drawn = TritonDrawing().random(logits, inputs).tolist()
    assert set(drawn) == {1, VOCAB - 1}
    assert 62 <= drawn.count(1) <= 88  # 75 with a standard deviation of 4; the draws are always the same
