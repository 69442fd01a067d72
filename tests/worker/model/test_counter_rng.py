"""The counter hash: known answers that other implementations and devices must give, and the noise made of it."""

import pytest
import torch

from roost_worker.model import counter_rng


def _python_mix(word: int) -> int:
    """The definition, in Python's unbounded integers."""
    word ^= word >> 16
    word = word * 0x21F0AAAD % 2**32
    word ^= word >> 15
    word = word * 0x735A2D97 % 2**32
    return word ^ word >> 15


def _python_word(seed: int, position: int, token: int) -> int:
    key = _python_mix(_python_mix(_python_mix(seed % 2**32 ^ 0x9E3779B9) ^ seed >> 32) ^ position)
    return _python_mix(key ^ _python_mix(token ^ 0x85EBCA6B))


def _word(seed: int, position: int, token: int, device: str = "cpu") -> int:
    signed = seed - (1 << 64) if seed >> 63 else seed
    keys = counter_rng.position_keys(torch.tensor([signed], device=device), torch.tensor([position], device=device))
    tokens = counter_rng.token_words(torch.tensor([token], device=device))
    return int(counter_rng.random_words(keys, tokens)[0, 0])


CASES = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (42, 1000, 49151), (2**63 + 5, 7, 128000), (2**64 - 1, 2**31, 3)]

KNOWN = [3113506429, 4103343437, 1966329443, 1985252206, 1425495623, 2327761650, 2951084014]


@pytest.mark.parametrize(("seed", "position", "token"), CASES)
def test_the_hash_is_its_definition(seed: int, position: int, token: int) -> None:
    assert _word(seed, position, token) == _python_word(seed, position, token)


def test_known_answers() -> None:
    assert [_word(*case) for case in CASES] == KNOWN


def test_mixing_is_a_bijection_on_a_sample() -> None:
    words = torch.arange(1 << 20)
    assert counter_rng.mix(words).unique().numel() == 1 << 20


def test_neighbouring_seeds_positions_and_tokens_are_unrelated() -> None:
    tokens = counter_rng.token_words(torch.arange(1 << 12))
    keys = counter_rng.position_keys(torch.arange(32).repeat_interleave(32), torch.arange(32).repeat(32))
    noise = counter_rng.gumbel(counter_rng.random_words(keys, tokens)).double()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.005)
    assert noise.var().item() == pytest.approx(1.64493, abs=0.01)
    rows = noise - noise.mean(dim=1, keepdim=True)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows), dtype=rows.dtype)
    assert correlation.abs().max() < 0.12


def test_noise_is_finite_at_both_ends() -> None:
    noise = counter_rng.gumbel(torch.tensor([0, 1, 2**31, 2**32 - 2, 2**32 - 1]))
    assert noise.isfinite().all()
    assert noise[0] == pytest.approx(22.87, abs=0.01)
    assert noise.sort(descending=True).indices[:3].tolist() == [0, 1, 2]


def test_drawing_by_gumbel_follows_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -8.0])
    keys = counter_rng.position_keys(torch.full((100_000,), 7), torch.arange(100_000))
    noise = counter_rng.gumbel(counter_rng.random_words(keys, counter_rng.token_words(torch.arange(5))))
    shares = (logits + noise).argmax(dim=1).bincount(minlength=5) / 100_000
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=0.005)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_draw_the_same_words() -> None:
    assert [_word(*case, device="cuda") for case in CASES] == KNOWN
