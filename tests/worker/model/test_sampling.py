"""Drawing tokens: each parameter against a naive reference, seeds that replay, rows that do not see one another."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.messages import SamplingParams
from roost_worker.engine.plan import Chunk, NewSlot, Sampled
from roost_worker.model.logits import truncate, unpack_mask
from roost_worker.model.sampler import Sampler

VOCAB = 50


def _no_grammar(grammar: str, output: Sequence[int]) -> object:
    raise ValueError(f"{grammar} does not start")


def _sampler(vocab: int = VOCAB) -> Sampler:
    return Sampler(vocab, torch.device("cpu"), _no_grammar)  # type: ignore[arg-type]  # never returns a state


def _logits(rows: int, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def _chunk(slot: int, position: int) -> Chunk:
    """A decode row whose next token is at `position`."""
    return Chunk(slot, array("I", [0]), position - 1, array("I", [1]), sample=True)


def _take(
    sampler: Sampler, slot: int, params: SamplingParams, context: Sequence[int] = (), output: Sequence[int] = ()
) -> None:
    sampler.take(NewSlot(slot, params, array("I", context), array("I", output)))


def _draw(
    params: SamplingParams,
    logits: torch.Tensor,
    *,
    position: int = 10,
    context: Sequence[int] = (),
    output: Sequence[int] = (),
) -> Sampled:
    sampler = _sampler(logits.shape[-1])
    _take(sampler, 0, params, context, output)
    return sampler.sample(logits.view(1, -1), [_chunk(0, position)])[0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(seed=1, temperature=1.5),
        SamplingParams(seed=2, temperature=1.0, top_k=5, top_p=0.9, min_p=0.01),
        SamplingParams(seed=3, temperature=0.7, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=2.0),
        SamplingParams(frequency_penalty=3.0, stop_token_ids=frozenset(range(10)), min_tokens=4),
    ],
)
def test_guesses_are_kept_as_far_as_single_draws_give_them(params: SamplingParams) -> None:
    logits = _logits(6)
    single = _sampler()
    _take(single, 0, params, context=[1, 2], output=[3])
    drawn = [single.sample(row.view(1, -1), [_chunk(0, 10 + i)])[0].token_id for i, row in enumerate(logits)]
    other = _draw(SamplingParams(), logits[0])
    for right in range(6):
        guesses = [*drawn[:right], (drawn[right] + 1) % VOCAB, *drawn[right + 1 :]][:5]
        sampler = _sampler()
        _take(sampler, 0, params, context=[1, 2], output=[3])
        _take(sampler, 1, SamplingParams())
        guessed = Chunk(0, array("I", [0, *guesses]), 9, array("I", [1]), sample=True, drafts=5)
        first, beside = sampler.sample(torch.cat((logits, logits[:1])), [guessed, _chunk(1, 10)])
        assert [first.token_id, *first.following] == drawn[: right + 1]
        assert beside == replace(other, slot=1)
        after = sampler.sample(logits[right : right + 1], [_chunk(0, 11 + right)])
        replayed = _sampler()
        _take(replayed, 0, params, context=[1, 2], output=[3, *drawn[: right + 1]])
        assert after == replayed.sample(logits[right : right + 1], [_chunk(0, 11 + right)])


class BreakingGrammar:
    """A grammar that allows every token, and breaks when it is to take one of `breaking`."""

    done, error = False, ""

    def __init__(self, breaking: int) -> None:
        self._breaking = breaking

    def fill(self, row: np.ndarray) -> None:
        row[:] = -1

    def consume(self, ids: Sequence[int]) -> None:
        if self._breaking in ids:
            raise ValueError("the grammar breaks")

    def force(self, most: int) -> list[int]:
        return []


def test_a_grammar_that_breaks_among_guesses_fails_the_draw_after_them() -> None:
    logits = _logits(4)
    drawn = logits.argmax(dim=1).tolist()
    assert drawn[2] not in drawn[:2]
    sampler = Sampler(VOCAB, torch.device("cpu"), lambda grammar, output: BreakingGrammar(drawn[2]))  # type: ignore[arg-type, return-value]  # has what is used
    sampler.take(NewSlot(0, SamplingParams(), array("I"), array("I"), "any"))
    guessed = Chunk(0, array("I", [0, *drawn[:3]]), 9, array("I", [1]), sample=True, drafts=3)
    (first,) = sampler.sample(logits, [guessed])
    assert ([first.token_id, *first.following], first.error) == (drawn[:2], "")
    assert sampler.sample(logits[2:3], [_chunk(0, 12)])[0].error == "the grammar breaks"


def test_greedy_takes_the_largest() -> None:
    logits = _logits(3)
    sampler = _sampler()
    for slot in range(3):
        _take(sampler, slot, SamplingParams())
    drawn = sampler.sample(logits, [_chunk(slot, 5) for slot in range(3)])
    assert [sampled.token_id for sampled in drawn] == logits.argmax(1).tolist()


def test_a_seed_replays_from_any_position() -> None:
    params = SamplingParams(seed=123, temperature=1.0)
    logits = _logits(30, seed=1)
    sampler = _sampler()
    _take(sampler, 0, params)
    run = [sampler.sample(row.view(1, -1), [_chunk(0, 10 + i)])[0].token_id for i, row in enumerate(logits)]
    replayed = [_draw(params, row, position=10 + i).token_id for i, row in enumerate(logits)]
    assert run == replayed
    other = [_draw(replace(params, seed=124), row, position=10 + i).token_id for i, row in enumerate(logits)]
    assert run != other


def test_a_position_is_a_tokens_place_in_its_sequence_however_it_was_reached() -> None:
    params, logits = SamplingParams(seed=3, temperature=2.0), _logits(1)
    sampler = _sampler()
    _take(sampler, 0, params)
    for position in range(10, 40):
        prefilled = Chunk(0, array("I", [0] * 7), position - 7, array("I", [1]), sample=True)
        decoded = sampler.sample(logits.clone(), [_chunk(0, position)])
        assert sampler.sample(logits.clone(), [prefilled]) == decoded


MIXED = [
    SamplingParams(),
    SamplingParams(seed=1, temperature=1.0),
    SamplingParams(seed=2, temperature=0.7, top_k=5),
    SamplingParams(seed=3, temperature=1.3, top_p=0.8, frequency_penalty=0.5),
    SamplingParams(seed=4, temperature=1.0, min_p=0.1, repetition_penalty=1.2),
    SamplingParams(presence_penalty=1.0, logit_bias=((3, 5.0), (4, -100.0))),
    SamplingParams(min_tokens=3, stop_token_ids=frozenset({1, 2}), logprobs=2),
]


@given(st.permutations(range(len(MIXED))), st.integers(1, len(MIXED)))
def test_a_row_does_not_depend_on_its_batch(order: list[int], size: int) -> None:
    logits = _logits(len(MIXED), seed=2)
    context, output = [5, 6, 7, 7], [8, 8, 9]
    sampler = _sampler()
    for slot, params in enumerate(MIXED):
        _take(sampler, slot, params, context, output)
    chosen = order[:size]
    drawn = sampler.sample(logits[chosen], [_chunk(slot, 20) for slot in chosen])
    for slot, sampled in zip(chosen, drawn, strict=True):
        alone = _draw(MIXED[slot], logits[slot], position=20, context=context, output=output)
        assert sampled.slot == slot
        assert sampled.token_id == alone.token_id
        assert sampled.top == alone.top


ids = st.lists(st.integers(0, VOCAB - 1), max_size=12)


@given(ids, ids, st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 2.0), st.integers(0, 1000))
def test_penalties_are_those_of_a_naive_reference(
    context: list[int], output: list[int], presence: float, frequency: float, repetition: float, seed: int
) -> None:
    logits = _logits(1, seed=seed)[0]
    expected = logits.double().clone()
    for token in {*context, *output}:
        expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
    for token in set(output):
        expected[token] -= frequency * output.count(token) + presence
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition)
    token = _draw(params, logits, context=context, output=output).token_id
    assert expected[token] == pytest.approx(expected.max().item(), abs=1e-5)


def test_drawn_tokens_count_towards_penalties() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 0.0]])
    sampler = _sampler(4)
    _take(sampler, 0, SamplingParams(frequency_penalty=1.5))
    drawn = [sampler.sample(logits.clone(), [_chunk(0, 5 + i)])[0].token_id for i in range(4)]
    assert drawn == [0, 1, 0, 2]


def test_a_slot_taken_again_forgets_its_last_sequence() -> None:
    logits = torch.tensor([[5.0, 4.5, 0.0]])
    sampler = _sampler(3)
    _take(sampler, 0, SamplingParams(presence_penalty=1.0), output=[0])
    assert sampler.sample(logits.clone(), [_chunk(0, 5)])[0].token_id == 1
    sampler.free([0, 0])
    _take(sampler, 0, SamplingParams(presence_penalty=1.0))
    assert sampler.sample(logits.clone(), [_chunk(0, 5)])[0].token_id == 0


def test_logit_bias_bans_and_forces() -> None:
    logits = _logits(1)[0]
    best = int(logits.argmax())
    assert _draw(SamplingParams(logit_bias=((best, -100.0),)), logits).token_id == int(logits.topk(2).indices[1])
    assert _draw(SamplingParams(logit_bias=((17, 100.0),), temperature=1.0), logits).token_id == 17


def test_stop_ids_are_forbidden_until_min_tokens() -> None:
    logits = torch.tensor([[9.0, 8.0, 1.0]])
    sampler = _sampler(3)
    _take(sampler, 0, SamplingParams(min_tokens=3, stop_token_ids=frozenset({0, 1})), output=[2])
    drawn = [sampler.sample(logits.clone(), [_chunk(0, 5 + i)])[0].token_id for i in range(3)]
    assert drawn == [2, 2, 0]


@given(st.integers(0, 60), st.floats(0.05, 1.0), st.integers(0, 200))
def test_truncation_is_that_of_a_naive_reference(top_k: int, top_p: float, seed: int) -> None:
    logits = _logits(1, seed=seed).double()
    order = logits[0].argsort(descending=True)
    kept = order[: top_k or VOCAB]
    shares = logits[0][kept].softmax(0)
    before = shares.cumsum(0) - shares
    nucleus = {int(token) for token, mass in zip(kept, before, strict=True) if mass < top_p or top_p >= 1.0}
    values, ids = truncate(logits, torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64))
    assert set(ids[values.isfinite()].tolist()) == nucleus


def test_top_k_alone_keeps_even_the_least_likely() -> None:
    logits = torch.tensor([[0.0, -40.0, -60.0, -70.0]])
    values, _ = truncate(logits, torch.tensor([3]), torch.tensor([1.0]))
    assert values.isfinite().sum() == 3


@pytest.mark.parametrize(("top_k", "top_p"), [(40, 1.0), (0, 0.5), (3000, 1.0), (0, 0.99), (2000, 0.9)])
def test_a_large_vocabulary_is_truncated_as_a_small_one(top_k: int, top_p: float) -> None:
    logits = _logits(1, vocab=5000, seed=3).double() * 0.3
    arguments = torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64)
    kept = logits[0].sort(descending=True).values[: top_k or 5000]
    shares = kept.softmax(0)
    expected = kept[(shares.cumsum(0) - shares) < top_p] if top_p < 1 else kept
    values, _ = truncate(logits, *arguments)
    torch.testing.assert_close(values[values.isfinite()], expected)


def test_min_p_cuts_tokens_less_likely_than_a_share_of_the_best() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.12, 0.05, 0.03]))
    params = SamplingParams(temperature=1.0, min_p=0.2)
    drawn = {_draw(replace(params, seed=seed), logits).token_id for seed in range(300)}
    assert drawn == {0, 1, 2}


def test_a_low_temperature_is_nearly_greedy() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0])
    drawn = {_draw(SamplingParams(temperature=0.01, seed=seed), logits).token_id for seed in range(100)}
    assert drawn == {0}


def test_logprobs_are_the_models_own() -> None:
    logits = _logits(1)[0]
    sampled = _draw(SamplingParams(logprobs=3, temperature=1.0, logit_bias=((9, 100.0),)), logits)
    expected = logits.log_softmax(0)
    assert sampled.token_id == 9
    assert sampled.logprob == pytest.approx(expected[9].item(), abs=1e-5)
    assert [token for token, _ in sampled.top] == expected.topk(3).indices.tolist()
    assert [value for _, value in sampled.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)


def test_masks_are_read_bit_by_bit() -> None:
    words = np.zeros((2, 2), dtype=np.int32)
    words[0, 0], words[1, 1] = -(2**31) + 1, 2
    mask = unpack_mask(words, 40)
    assert np.flatnonzero(mask[0]).tolist() == [0, 31]
    assert np.flatnonzero(mask[1]).tolist() == [33]


def test_bfloat16_logits_are_processed_in_float32() -> None:
    logits = torch.full((1, 3), 100.0, dtype=torch.bfloat16)
    sampler = _sampler(3)
    _take(sampler, 0, SamplingParams(logit_bias=((1, 0.125),)))
    assert sampler.sample(logits, [_chunk(0, 5)])[0].token_id == 1


def test_a_grammar_that_cannot_start_fails_its_row_only() -> None:
    sampler = _sampler()
    _take(sampler, 0, SamplingParams())
    sampler.take(NewSlot(1, SamplingParams(), array("I"), array("I"), grammar="broken"))
    logits = _logits(2)
    drawn = sampler.sample(logits, [_chunk(0, 5), _chunk(1, 5)])
    assert drawn[0] == Sampled(0, int(logits[0].argmax()))
    assert drawn[1].error == "broken does not start"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_draw_the_same_tokens() -> None:
    logits = _logits(len(MIXED), seed=2)
    drawn = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        sampler = Sampler(VOCAB, device, _no_grammar)  # type: ignore[arg-type]  # never returns a state
        for slot, params in enumerate(MIXED):
            _take(sampler, slot, params, [5, 6], [8])
        chunks = [_chunk(slot, 20) for slot in range(len(MIXED))]
        drawn.append([sampled.token_id for sampled in sampler.sample(logits.to(device), chunks)])
    assert drawn[0] == drawn[1]
