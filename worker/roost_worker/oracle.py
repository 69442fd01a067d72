"""An independent judge of committed logs: transformers in float32, teacher-forced over a whole log.

At every generated position the chosen token must be the oracle's first choice, under the same grammar masks, penalties
and noise. The model and the processing of logits are deliberately implemented a second time here (transformers, numpy);
only grammars (llguidance) and the counter-based noise, whose definition is the contract, are shared with the worker.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roost_worker.config import KvDtype, Quantization
from roost_worker.engine.messages import SamplingParams
from roost_worker.grammar import GrammarCompiler, GrammarError, GrammarState, fill_masks
from roost_worker.kernels.int8_weight import Int8Weight
from roost_worker.render.description import TemplateDescription

NEAR_TIE = 5e-4
"""Largest gap of processed logits that counts as a near tie: decode and prefill differ by at most 1.5e-4 in float32."""

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """A committed step to judge, as the log has it."""

    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    grammar: str | None = None


class Finding(StrEnum):
    """The oracle's finding about one token."""

    FIRST_CHOICE = "first_choice"
    NEAR_TIE = "near_tie"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class PositionReport:
    """One generated position. `gap` is how far the chosen token's processed logit is below the best one's."""

    step: int
    index: int
    """Number of the token in the step's output."""
    token: int
    best: int
    gap: float
    finding: Finding
    constrained: bool
    """Whether a grammar constrained it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All positions together: token-exact when none is wrong and near ties are at most max(2, 0.1 %)."""

    positions: int
    near_ties: int
    wrong: int
    largest_gap: float
    unconstrained: int

    @property
    def allowed_near_ties(self) -> int:
        return max(2, self.positions // 1000)

    @property
    def token_exact(self) -> bool:
        return self.wrong == 0 and self.near_ties <= self.allowed_near_ties


def judge(reports: Sequence[PositionReport]) -> Judgement:
    """Judge the reports of any number of logs together."""
    return Judgement(
        positions=len(reports),
        near_ties=sum(report.finding is Finding.NEAR_TIE for report in reports),
        wrong=sum(report.finding is Finding.WRONG for report in reports),
        largest_gap=max((report.gap for report in reports), default=0.0),
        unconstrained=sum(not report.constrained for report in reports),
    )


class Oracle:
    """Scores logs of one prepared model. Requires torch and transformers."""

    def __init__(self, model_dir: Path, quantization: Quantization = "none", kv_dtype: KvDtype = "auto") -> None:
        """Load the model in float32, whatever its weights are stored in.

        With `quantization` and `kv_dtype` it has the weights, keys and values of a worker that rounds them so.
        """
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        attention = "sdpa" if kv_dtype == "auto" else _attention_to_int8()
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation=attention)
        if quantization == "int8":
            _round_weights(model)
        self._model = model.eval()
        self.vocab_size = int(model.config.vocab_size)
        eos = TemplateDescription.load(model_dir / "template.json").eos_token_ids
        self._token_words: Any = None
        self._compiler = GrammarCompiler(model_dir / "tokenizer.json", eos, self.vocab_size)

    def score(self, steps: Sequence[JudgedStep]) -> list[PositionReport]:
        """Return one report per output id of a session's log, given from its beginning. Runs one forward pass.

        Raise GrammarError when an output does not match its grammar.
        """
        ids: list[int] = []
        places: list[int] = []
        for step in steps:
            ids += step.prompt_ids
            places += range(len(ids), len(ids) + len(step.output_ids))
            ids += step.output_ids
        if not places:
            return []
        logits = self._logits(ids, places)
        reports: list[PositionReport] = []
        end = 0
        for number, step in enumerate(steps):
            start = end + len(step.prompt_ids)
            end = start + len(step.output_ids)
            rows = logits[len(reports) : len(reports) + len(step.output_ids)]
            reports += self._score_step(number, step, ids[:end], start, rows)
        return reports

    def _logits(self, ids: Sequence[int], places: Sequence[int]) -> Logits:
        """Return the logits [len(places), vocabulary] from which the token at each place was drawn."""
        with self._torch.inference_mode():
            hidden = self._model.model(input_ids=self._torch.tensor([list(ids)]), use_cache=False).last_hidden_state
            rows: Logits = self._model.lm_head(hidden[0, [place - 1 for place in places]]).float().numpy()
        return rows

    def _score_step(
        self, number: int, step: JudgedStep, ids: Sequence[int], start: int, rows: Logits
    ) -> Iterator[PositionReport]:
        grammar = self._compiler.start(step.grammar) if step.grammar is not None else None
        for index, token in enumerate(step.output_ids):
            place = start + index
            processed = processed_logits(rows[index], ids[:start], ids[start:place], step.sampling, grammar)
            best, gap = self._compare(processed, int(token), place, step.sampling)
            finding = Finding.FIRST_CHOICE if gap == 0 else Finding.NEAR_TIE if gap < NEAR_TIE else Finding.WRONG
            yield PositionReport(number, index, int(token), best, gap, finding, grammar is not None)
            if grammar is not None:
                _consume(grammar, int(token), number, index)

    def _compare(self, logits: Logits, token: int, place: int, sampling: SamplingParams) -> tuple[int, float]:
        """Return the oracle's choice, and by how much it beats `token` (0 when it is `token`)."""
        if sampling.temperature <= 0:
            best = int(logits.argmax())
            return best, 0.0 if best == token else float(logits[best] - logits[token])
        scaled = logits / np.float32(sampling.temperature)
        noisy = scaled + self._noise(sampling.seed, place)
        best = int(np.where(scaled >= _floor(scaled, sampling), noisy, -np.inf).argmax())
        if best == token:
            return best, 0.0
        # A token right at the edge of top-k, top-p or min-p may be on the other side of it for the worker.
        beyond_edge = max(0.0, float(_floor(scaled, sampling) - scaled[token]))
        return best, max(beyond_edge, float(noisy[best] - noisy[token]), float(np.finfo(np.float32).tiny))

    def _noise(self, seed: int, place: int) -> Logits:
        from roost_worker.model import counter_rng

        torch = self._torch
        signed = seed - (1 << 64) if seed >= 1 << 63 else seed
        keys = counter_rng.position_keys(torch.tensor([signed]), torch.tensor([place]))
        if self._token_words is None:
            self._token_words = counter_rng.token_words(torch.arange(self.vocab_size))
        noise: Logits = counter_rng.gumbel(counter_rng.random_words(keys, self._token_words))[0].numpy()
        return noise


def _attention_to_int8() -> str:
    """Return the name by which transformers know an attention to keys and values that are rounded to int8."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from roost_worker.model.int8_kv import restored, rounded

    name, attend = "roost_int8", ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend_to_int8(module: Any, query: Any, key: Any, value: Any, *arguments: Any, **options: Any) -> Any:
        key, value = (restored(*rounded(side), side.dtype) for side in (key, value))
        return attend(module, query, key, value, *arguments, **options)

    ALL_ATTENTION_FUNCTIONS.register(name, attend_to_int8)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    return name


def _round_weights(model: Any) -> None:
    """Round the weights of all products, and no embedding: a head that is one gets a weight of its own."""
    import torch

    with torch.no_grad():
        for module in [each for each in model.modules() if isinstance(each, torch.nn.Linear)]:
            module.weight = torch.nn.Parameter(Int8Weight.of(module.weight).dense(), requires_grad=False)


def _consume(grammar: GrammarState, token: int, step: int, index: int) -> None:
    try:
        grammar.consume([token])
    except GrammarError as error:
        raise GrammarError(f"step {step}, output {index}: {error}") from error


def processed_logits(
    row: Logits, context: Sequence[int], output: Sequence[int], sampling: SamplingParams, grammar: GrammarState | None
) -> Logits:
    """Apply penalties, bias, `min_tokens` and grammar, in this order, to a row of logits [vocabulary].

    `context` is everything before the step's output, `output` the step's output so far.
    """
    logits = row.astype(np.float32)
    _penalise(logits, np.unique(np.array([*context, *output], dtype=np.int64)), sampling)
    _penalise_output(logits, np.array(output, dtype=np.int64), sampling)
    for token, bias in sampling.logit_bias:
        logits[token] += np.float32(bias)
    if grammar is None and len(output) < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
    if grammar is not None:
        logits[~_allowed(grammar, len(logits))] = -np.inf
    return logits


def _penalise(logits: Logits, tokens: NDArray[np.int64], sampling: SamplingParams) -> None:
    factor = np.float32(sampling.repetition_penalty)
    values = logits[tokens]
    logits[tokens] = np.where(values > 0, values / factor, values * factor)


def _penalise_output(logits: Logits, output: NDArray[np.int64], sampling: SamplingParams) -> None:
    tokens, counts = np.unique(output, return_counts=True)
    logits[tokens] -= np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
    logits[tokens] -= np.float32(sampling.presence_penalty)


def _allowed(grammar: GrammarState, vocab_size: int) -> NDArray[np.bool_]:
    words = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)
    fill_masks([grammar], words)
    bits = words[0].view(np.uint32)[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.asarray(bits.reshape(-1)[:vocab_size], dtype=np.bool_)


def _floor(scaled: Logits, sampling: SamplingParams) -> np.float32:
    """Return the smallest scaled logit that is left by top-k, then top-p, then min-p."""
    ordered = np.sort(scaled)[::-1]
    if sampling.top_k > 0:
        ordered = ordered[: sampling.top_k]
    weights = np.exp((ordered - ordered[0]).astype(np.float64))
    before = np.cumsum(weights) - weights
    kept = ordered[: max(1, int(np.sum(before < sampling.top_p * weights.sum())))] if sampling.top_p < 1 else ordered
    lowest = kept[-1]
    if sampling.min_p > 0:
        lowest = max(lowest, ordered[0] + np.float32(np.log(sampling.min_p)))
    return np.float32(lowest)
