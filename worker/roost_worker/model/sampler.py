"""Draws one token per sampled row: logits processing, then Gumbel-max over counter-based noise.

The largest of logits / temperature + Gumbel noise is a sample of the softmax (Gumbel, 1954; Maddison et al., 2014).
Rows with temperature 0 take the largest logit. Runs on rank 0 only.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from roost_worker.engine.plan import Chunk, NewSlot, Sampled
from roost_worker.model.drawing import Drawing, Draws, TorchDrawing
from roost_worker.model.logits import FORBIDDEN, apply_penalties, unpack_mask
from roost_worker.model.slot_table import Need, SlotTable

if TYPE_CHECKING:
    from roost_worker.grammar import GrammarState

NOTHING = -1
"""`Sampled.token_id` where nothing was drawn."""
StartGrammar = Callable[[str, Sequence[int]], "GrammarState"]
"""Compiles a grammar and advances it over the output so far. Raises ValueError naming the fault."""


class Sampler:
    """Sampling state of all slots, and the drawing itself.

    Args:
        vocab_size: tokens in the model's vocabulary.
        device: where the logits are.
        start_grammar: called for slots that have a grammar.
        max_forced_tokens: how many tokens may follow a drawn one without a draw, because a grammar allows no others.
        drawing: torch's if it is None.
    """

    def __init__(
        self,
        vocab_size: int,
        device: torch.device,
        start_grammar: StartGrammar,
        *,
        max_forced_tokens: int = 0,
        drawing: Drawing | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._table = SlotTable(vocab_size, device)
        self._start_grammar = start_grammar
        self._max_forced_tokens = max_forced_tokens
        self._drawing: Drawing = drawing or TorchDrawing(vocab_size, device)

    def free(self, slots: Sequence[int]) -> None:
        """Forget slots."""
        for slot in slots:
            self._table.free(slot)

    def take(self, new: NewSlot) -> None:
        """Fill a slot. A grammar that cannot start fails its own request, when its first token is to be drawn."""
        self._table.take(new)
        if new.grammar is None:
            return
        extras = self._table.extras[new.slot]
        try:
            extras.grammar = self._start_grammar(new.grammar, new.output)
            extras.complete = extras.grammar.done
        except ValueError as error:
            extras.error = str(error)

    def sample(self, logits: Tensor, chunks: Sequence[Chunk]) -> tuple[Sampled, ...]:
        """Draw for each of `chunks`, whose slots are taken: a token, and one after each guess until one is wrong.

        A draw sees everything that those before it changed, so that the tokens are those of one draw a batch.

        Args:
            logits: [draws of all chunks, vocabulary] of any float type, in the chunks' order.
        """
        draws = np.array([chunk.draws for chunk in chunks])
        first_rows = np.cumsum(draws) - draws
        sampled = self._sample_rows(_rows(logits, first_rows), chunks, np.zeros_like(draws))
        going = list(range(len(chunks)))
        while going := [index for index in going if _next_is_known(chunks[index], sampled[index])]:
            depths = np.array([1 + len(sampled[index].following) for index in going])
            rows = _rows(logits, first_rows[going] + depths)
            following = self._sample_rows(rows, [chunks[index] for index in going], depths)
            for index, drawn in zip(going, following, strict=True):
                sampled[index] = _joined(sampled[index], drawn)
            going = [index for index, drawn in zip(going, following, strict=True) if not drawn.error]
        return tuple(sampled)

    def draws_of_step(self, chunks: Sequence[Chunk]) -> "Draws[np.ndarray] | None":
        """Return the draws of a decode step, or None if one of them depends on more than a `Drawing` knows.

        Chunks that draw nothing have the temperature 0.
        """
        samples = np.array([chunk.sample for chunk in chunks])
        slots = np.array([chunk.slot for chunk in chunks])
        if (self._table.columns.need[slots[samples]] & ~Need.RANDOM).any():
            return None
        draws = self._draws(slots, np.array([chunk.start + len(chunk.token_ids) for chunk in chunks]))
        draws.temperatures[~samples] = 0.0
        return draws

    def take_drawn(self, chunks: Sequence[Chunk], tokens: Tensor) -> tuple[Sampled, ...]:
        """Take what was drawn elsewhere, as `draws_of_step` says.

        Args:
            chunks: those that draw a token.
            tokens: [chunks] int64.
        """
        return tuple(self._record(np.array([chunk.slot for chunk in chunks]), tokens))

    def _sample_rows(self, logits: Tensor, chunks: Sequence[Chunk], depths: "np.ndarray") -> list[Sampled]:
        """Draw a token for each of `chunks` after as many of its guesses as `depths` says."""
        slots = np.array([chunk.slot for chunk in chunks])
        need = Need(int(np.bitwise_or.reduce(self._table.columns.need[slots])))
        if not need:
            tokens = self._drawing.largest(logits)
        else:
            positions = np.array([chunk.start + len(chunk.token_ids) - chunk.drafts for chunk in chunks]) + depths
            processed = self._process(_wide(logits), slots, need)
            if need & Need.RANDOM:
                tokens = self._drawing.draw(processed, self._draws(slots, positions))
            else:
                tokens = self._drawing.largest(processed)
        sampled = self._record(slots, tokens)
        if need & (Need.GRAMMAR | Need.LOGPROBS):
            self._annotate(sampled, logits, slots)
        return sampled

    def _record(self, slots: "np.ndarray", tokens: Tensor) -> list[Sampled]:
        """Count a drawn token of each slot, and return them."""
        self._table.record(slots, tokens)
        return [Sampled(slot, token) for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True)]

    def _process(self, logits: Tensor, slots: "np.ndarray", need: Need) -> Tensor:
        if need & Need.PENALTIES:
            logits = self._penalise(logits, slots)
        if need & Need.BIAS:
            self._bias(logits, slots)
        if need & Need.MIN_TOKENS:
            self._forbid_stops(logits, slots)
        if need & Need.GRAMMAR:
            self._mask(logits, slots)
        return logits

    def _rows_that_need(self, slots: "np.ndarray", need: Need) -> "np.ndarray":
        return np.flatnonzero(self._table.columns.need[slots] & need)

    def _penalise(self, logits: Tensor, slots: "np.ndarray") -> Tensor:
        rows = self._rows_that_need(slots, Need.PENALTIES)
        columns, picked = self._table.columns, slots[rows]
        index = torch.from_numpy(picked).to(self._device)
        row_index = torch.from_numpy(rows).to(self._device)
        factors = [
            torch.from_numpy(column[picked]).to(device=self._device, dtype=logits.dtype)[:, None]
            for column in (columns.repetition, columns.frequency, columns.presence)
        ]
        logits[row_index] = apply_penalties(
            logits[row_index], self._table.counts[index], self._table.seen[index], *factors
        )
        return logits

    def _bias(self, logits: Tensor, slots: "np.ndarray") -> None:
        for row in self._rows_that_need(slots, Need.BIAS):
            extras = self._table.extras[int(slots[row])]
            logits[row].index_add_(0, extras.bias_ids, extras.bias_values.to(logits.dtype))

    def _forbid_stops(self, logits: Tensor, slots: "np.ndarray") -> None:
        columns = self._table.columns
        for row in self._rows_that_need(slots, Need.MIN_TOKENS):
            slot = int(slots[row])
            # A grammar decides when the output may end; if min_tokens did too, no token might be left to draw.
            if columns.produced[slot] < columns.min_tokens[slot] and self._table.extras[slot].grammar is None:
                logits[row].index_fill_(0, self._table.extras[slot].stop_ids, FORBIDDEN)

    def _mask(self, logits: Tensor, slots: "np.ndarray") -> None:
        from roost_worker.grammar import fill_masks

        rows = [int(row) for row in self._rows_that_need(slots, Need.GRAMMAR)]
        extras = [self._table.extras[int(slots[row])] for row in rows]
        states = [None if extra.complete else extra.grammar for extra in extras]
        words = np.full((len(rows), -(-self._vocab_size // 32)), -1, dtype=np.int32)
        fill_masks(states, words)
        forbidden = torch.from_numpy(~unpack_mask(words, self._vocab_size)).to(self._device)
        index = torch.tensor(rows, device=self._device)
        logits[index] = logits[index].masked_fill(forbidden, FORBIDDEN)

    def _draws(self, slots: "np.ndarray", positions: "np.ndarray") -> "Draws[np.ndarray]":
        columns = self._table.columns
        return Draws(
            temperatures=columns.temperature[slots],
            seeds=columns.seed[slots],
            positions=positions,
            top_ks=columns.top_k[slots],
            top_ps=columns.top_p[slots],
            min_ps=columns.min_p[slots],
        )

    def _annotate(self, sampled: list[Sampled], logits: Tensor, slots: "np.ndarray") -> None:
        """Advance grammars and look up log-probabilities, replacing the results of these rows."""
        with_logprobs = self._rows_that_need(slots, Need.LOGPROBS)
        if with_logprobs.size:
            self._add_logprobs(sampled, logits, slots, with_logprobs)
        for row in self._rows_that_need(slots, Need.GRAMMAR):
            sampled[row] = self._with_grammar(sampled[row])

    def _add_logprobs(self, sampled: list[Sampled], logits: Tensor, slots: "np.ndarray", rows: "np.ndarray") -> None:
        """Add the model's own log-probabilities: before penalties, bias, grammar and temperature."""
        logprobs = torch.log_softmax(_wide(logits[torch.from_numpy(rows).to(self._device)]), dim=1)
        counts = np.minimum(self._table.columns.logprobs[slots[rows]], self._vocab_size)
        drawn = torch.tensor([[sampled[row].token_id] for row in rows], device=self._device)
        own = logprobs.gather(1, drawn).squeeze(1).tolist()
        best = logprobs.topk(int(counts.max()), dim=1)
        for row, count, value, ids, values in zip(
            rows, counts, own, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            top = tuple(zip(ids[:count], values[:count], strict=True))
            sampled[row] = Sampled(sampled[row].slot, sampled[row].token_id, logprob=value, top=top)

    def _with_grammar(self, drawn: Sampled) -> Sampled:
        extras = self._table.extras[drawn.slot]
        if extras.complete:
            return Sampled(drawn.slot, NOTHING, grammar_done=True)
        if extras.grammar is not None and not extras.error:
            # A parser that hit one of its limits allowed every token, so the drawn one is meaningless.
            extras.error = extras.grammar.error or self._advance(extras.grammar, drawn.token_id)
        if extras.grammar is None or extras.error:
            return replace(drawn, error=extras.error)
        forced = self._force(drawn.slot, extras.grammar)
        return replace(drawn, following=forced, grammar_done=extras.grammar.done)

    def _force(self, slot: int, grammar: "GrammarState") -> tuple[int, ...]:
        """Return what the grammar forces next, which counts as drawn."""
        if self._table.columns.need[slot] & Need.LOGPROBS:
            return ()
        forced = grammar.force(self._max_forced_tokens)
        self._table.record_forced(slot, forced)
        return tuple(forced)

    def _advance(self, grammar: "GrammarState", token: int) -> str:
        try:
            grammar.consume([token])
        except ValueError as error:
            return str(error)
        return ""


def _next_is_known(chunk: Chunk, sampled: Sampled) -> bool:
    """Whether the chunk has logits for the draw after what was sampled: whether its guesses begin with all of that."""
    if not chunk.drafts or sampled.grammar_done or sampled.error:
        return False
    tokens = [sampled.token_id, *sampled.following]
    return chunk.guesses[: len(tokens)].tolist() == tokens


def _joined(sampled: Sampled, drawn: Sampled) -> Sampled:
    """Return what was sampled with what was drawn after it; an error fails the slot's next draw, too."""
    if drawn.error:
        return sampled
    following = (*sampled.following, drawn.token_id, *drawn.following)
    return replace(sampled, following=following, grammar_done=drawn.grammar_done)


def _rows(logits: Tensor, rows: "np.ndarray") -> Tensor:
    """Return some rows of the logits, or the logits themselves when these are all."""
    return logits if len(rows) == len(logits) else logits[torch.from_numpy(rows).to(logits.device)]


def _wide(logits: Tensor) -> Tensor:
    """Return a copy to work on in place, in at least float32."""
    return logits.clone() if logits.dtype == torch.float64 else logits.to(torch.float32, copy=True)
