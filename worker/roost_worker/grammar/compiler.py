"""Compiled grammars and their token masks, on llguidance (https://github.com/guidance-ai/llguidance)."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from roost_worker.grammar.errors import GrammarError

_CACHED = 64
_ABOUT_THE_SCHEMA = re.compile(
    r"Unsatisfiable schema: (?!Regex)|schema too large|Schema intersection|circular references|patternProperty "
    r"|min/maxProperties"
)
"""What begins an error in a client's terms; others are about the rules that llguidance makes of a schema."""
_ALL = np.int32(-1)
_MOST_DIVIDED = 4096
"""About how many tokens one `force` has llguidance divide text into. For each id it divides all that is still forced,
10 ms for a client's constant of 60,000 characters, and the engine's loop waits."""


class GrammarState:
    """The position of one output in its grammar."""

    def __init__(self, matcher: LLMatcher, eos_ids: frozenset[int], words: int) -> None:
        self._matcher = matcher
        self._eos_ids = eos_ids
        self._row = np.zeros((1, words), dtype=np.int32)

    def consume(self, ids: Iterable[int]) -> None:
        """Advance over output ids. Raise GrammarError at an id that the grammar does not allow, or at a limit."""
        for token in ids:
            if not self._matcher.consume_token(int(token)):
                raise GrammarError(f"token {int(token)} leaves the grammar: {_shorten(self._matcher.get_error())}")

    def force(self, most: int) -> list[int]:
        """Advance over up to `most` ids, each the only one that may come next, and return them: what draws would give.

        Nothing is forced where the output may end. llguidance lists all ids that it takes to follow, but the mask
        behind the first may not allow the second: what is left is divided into tokens again, sometimes otherwise
        (`findings/llguidance_1_9_forced_tokens_are_divided_again.sh`). So only the first of each list is taken.
        """
        forced: list[int] = []
        divided = 0
        while len(forced) < most and divided < _MOST_DIVIDED and (ahead := self._matcher.compute_ff_tokens()):
            if not self._matcher.try_consume_tokens(ahead[:1]):
                break
            forced.append(ahead[0])
            divided += len(ahead)
        return forced

    @property
    def done(self) -> bool:
        """Whether only the end of the turn may follow."""
        if self._matcher.is_stopped():
            return not self._matcher.is_error()
        if not self._matcher.is_accepting():
            return False
        fill_next_token_bitmask(self._matcher, self._row, 0)
        return self._allowed_are_eos()

    @property
    def error(self) -> str:
        """Why the grammar cannot continue (a limit of its parser); empty while it can."""
        return _shorten(self._matcher.get_error()) if self._matcher.is_error() else ""

    def fill(self, row: NDArray[np.int32]) -> None:
        """Set the bits of the ids that may come next in `row` (int32, [1, ceil(vocab/32)]).

        Set all bits on an error, so that the other rows of a batch go on while the caller fails this one.
        """
        if not self._matcher.is_error():
            fill_next_token_bitmask(self._matcher, row, 0)
        if self._matcher.is_error():
            row[:] = _ALL

    def _allowed_are_eos(self) -> bool:
        words = self._row[0].view(np.uint32).copy()
        for token in self._eos_ids:
            words[token >> 5] &= ~np.uint32(1 << (token & 31))
        return not words.any()


class GrammarCompiler:
    """Compiles grammars for one model's tokenizer, and keeps the latest. Thread-safe.

    Only llguidance's own limits bound the work, and some grammars escape them: what a client sends goes through a
    `CompilePool` first.
    """

    def __init__(self, tokenizer_json: Path, eos_ids: Sequence[int], vocab_size: int) -> None:
        """`vocab_size` is the number of logits, including padding, which is never allowed."""
        tokenizer, ends = _drawable(tokenizer_json.read_text(encoding="utf-8"), eos_ids, vocab_size)
        self._tokenizer = LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=ends)
        self._eos_ids = frozenset(ends)
        self._words = (vocab_size + 31) // 32
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, grammar: str) -> str:
        """Return why the grammar is refused, or an empty string. Compiles it unless it is kept."""
        try:
            self._matcher(grammar)
        except GrammarError as error:
            return str(error)
        return ""

    def start(self, grammar: str) -> GrammarState:
        """Return the state before the first token. Raise GrammarError. Cheap after `check`."""
        return GrammarState(self._matcher(grammar).deep_copy(), self._eos_ids, self._words)

    def compile(self, grammar: str) -> LLMatcher:
        """Compile a grammar and its first token mask, whatever is kept. Raise GrammarError."""
        # llguidance releases Python's lock while it compiles.
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        if not matcher.is_error():
            fill_next_token_bitmask(matcher, np.zeros((1, self._words), dtype=np.int32), 0)
        if matcher.is_error():
            raise GrammarError(f"the grammar is refused: {_in_words(matcher.get_error())}")
        return matcher

    def _matcher(self, grammar: str) -> LLMatcher:
        with self._lock:
            if compiled := self._compiled.get(grammar):
                self._compiled.move_to_end(grammar)
                return compiled
        matcher = self.compile(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return matcher


def build_compile(tokenizer_json: str, eos_ids: Sequence[int], vocab_size: int) -> Callable[[str], object]:
    """Return the function that a compile process calls with each grammar. Nothing that it compiles is kept."""
    return GrammarCompiler(Path(tokenizer_json), eos_ids, vocab_size).compile


def fill_masks(states: Sequence[GrammarState | None], out: NDArray[np.int32]) -> None:
    """Fill `out` (int32, [len(states), ceil(vocab/32)], contiguous): bit i of a row is set when id i may come next.

    A row without a state, or whose state has an error (`GrammarState.error`), allows everything.
    """
    for index, state in enumerate(states):
        if state is None:
            out[index] = _ALL
        else:
            state.fill(out[index : index + 1])


def _drawable(tokenizer: str, eos_ids: Sequence[int], vocab_size: int) -> tuple[str, list[int]]:
    """Return a `tokenizer.json` and ends of turns without what the model cannot draw, which llguidance refuses.

    Tokenizers get tokens, for padding mostly, that their models were not resized for, and a `generation_config.json`
    may name ends that the tokenizer does not have.
    """
    document = json.loads(tokenizer)
    added = document.get("added_tokens") or []
    kept = [token for token in added if token["id"] < vocab_size]
    vocabulary = document["model"]["vocab"]
    ordinary = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    ids = {*ordinary, *(token["id"] for token in kept)}
    ends = [index for index in eos_ids if index in ids and index < vocab_size]
    return tokenizer if len(kept) == len(added) else json.dumps({**document, "added_tokens": kept}), ends


def _limits() -> LLParserLimits:
    return LLParserLimits(max_lexer_states=50_000, max_grammar_size=200_000, verbose_errors=False)


def _in_words(error: str) -> str:
    """Return a library error as far as it is about what the client wrote."""
    about = _ABOUT_THE_SCHEMA.search(error)
    return (
        _shorten(error[about.start() :].splitlines()[0])
        if about
        else "it is too large or too complex; simplify the schema"
    )


def _shorten(text: str) -> str:
    return " ".join(text.split())[:300]
