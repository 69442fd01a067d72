"""What is known of a tokenizer before it encodes a text: where the text may be cut, and how long a token can be. Pure.

A cut is safe when the parts, encoded one by one, have the ids of the whole text. A tokenizer is judged by its
`tokenizer.json`, in which added tokens and prefixes are left out (`vocabulary.py`). Of a tokenizer that has a part
unknown here, nothing is known.
"""

import re
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any

from roost.contract.lease import RARE_BYTES

SLICE_CHARACTERS = 16 * 1024
"""How long a part is at most, where the text has safe cuts: some milliseconds of encoding."""

Cuts = Callable[[str, int, int], int]
"""`cuts(text, start, end)` is the last safe cut in (start, end], else the first one after it, else the text's end."""

# The expressions by which Llama 3, Qwen 2 and 3 and Mistral Nemo split text into words, from their `tokenizer.json`.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORD_PATTERNS = frozenset((_LLAMA3, _QWEN, _TEKKEN))
# Between these two classes a word ends in each of them, and in GPT-2's: no alternative matches, or looks, from a letter
# or digit past a character that is neither, and none looks behind.
_INSIDE = "[0-9A-Za-zÀ-ÖØ-öø-ÿА-яぁ-ゖァ-ヺ一-龥가-힣]"
_OUTSIDE = r"[\t\n\r -/:-@\[-`{-~、。\uff01\uff0c\uff1a\uff1b\uff1f]"
_LAST_WORD_END = re.compile(f".*{_INSIDE}(?={_OUTSIDE})", re.DOTALL)
_NEXT_WORD_END = re.compile(f"{_INSIDE}(?={_OUTSIDE})")

_MARK = "\u2581"
_MARKS_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
_NFC_SHRINKS = 4
"""A text has at most so many times the bytes of its NFC. The most is 3.5: \u0390 in the longest of its spellings."""


def byte_characters() -> list[str]:
    """Return the character that stands for each of the 256 bytes in byte-level BPE.

    Source: `bytes_to_unicode` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    printable = frozenset((*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)))
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def slices(text: str, cuts: Cuts | None, length: int = SLICE_CHARACTERS) -> Iterator[str]:
    """Yield the text in parts of at most `length` characters, or longer ones where it has no safe cut."""
    start = 0
    while cuts is not None and len(text) - start > length:
        end = cuts(text, start, start + length)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def safe_cuts(tokenizer: dict[str, Any]) -> Cuts | None:
    """Return what finds the safe cuts of texts, or None when it is not known where they are."""
    normalizers, pre_tokenizers = _steps(tokenizer, "normalizer"), _steps(tokenizer, "pre_tokenizer")
    if not _keep_text(pre_tokenizers):
        return None
    if any(map(_splits_words, pre_tokenizers)):
        known = all(_splits_words(step) or step["type"] in ("Digits", "ByteLevel") for step in pre_tokenizers)
        return _word_end if known and all(step["type"] == "NFC" for step in normalizers) else None
    model = tokenizer["model"]
    whole_words = any(map(model.get, ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")))
    if model.get("type") != "BPE" or whole_words or any(step["type"] == "Split" for step in pre_tokenizers):
        return None
    if any(step != _MARKS_SPACES for step in normalizers):
        return None
    return _MergeGaps(model["vocab"], byte_level=_is_byte_level(pre_tokenizers))


def max_bytes_per_token(tokenizer: dict[str, Any], control_ids: Collection[int]) -> int:
    """Return the most `counted_bytes` of content that one token stands for, or 0 when that is not known."""
    model, pre_tokenizers = tokenizer["model"], _steps(tokenizer, "pre_tokenizer")
    normalizers = [step for step in _steps(tokenizer, "normalizer") if step != _MARKS_SPACES]
    if model.get("type") != "BPE" or not _keep_text(pre_tokenizers) or any(s["type"] != "NFC" for s in normalizers):
        return 0
    byte_level = _is_byte_level(pre_tokenizers)
    if not byte_level and not model.get("byte_fallback"):
        return 0  # characters without a token may be dropped
    vocabulary = model["vocab"]
    every_byte = byte_characters() if byte_level else _BYTE_TOKENS
    if any(token not in vocabulary for byte, token in enumerate(every_byte) if byte not in RARE_BYTES):
        return 0
    ordinary = (token for token, index in vocabulary.items() if index not in control_ids)
    longest = max(len(token) if byte_level else len(token.encode()) for token in ordinary)
    return longest * _NFC_SHRINKS if normalizers else longest


def _steps(tokenizer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the normalizers or pre-tokenizers in order; those of nested sequences, too."""
    steps, flat = [tokenizer.get(key)], list[dict[str, Any]]()
    while steps:
        step = steps.pop(0)
        if step and step["type"] == "Sequence":
            steps = [*(step.get("normalizers") or step.get("pretokenizers") or ()), *steps]
        elif step:
            flat.append(step)
    return flat


def _keep_text(pre_tokenizers: list[dict[str, Any]]) -> bool:
    """Whether they neither drop nor add text. What spells it in other characters must come last."""
    spelling = ("ByteLevel", "Metaspace")
    return all(map(_keeps_text, pre_tokenizers)) and all(step["type"] not in spelling for step in pre_tokenizers[:-1])


def _keeps_text(pre_tokenizer: dict[str, Any]) -> bool:
    match pre_tokenizer["type"]:
        case "ByteLevel":
            return not pre_tokenizer.get("add_prefix_space", True)
        case "Metaspace":
            return bool(pre_tokenizer.get("prepend_scheme") == "never")
        case "Split":
            return bool(pre_tokenizer.get("behavior") == "Isolated")
    return bool(pre_tokenizer["type"] == "Digits")


def _splits_words(pre_tokenizer: dict[str, Any]) -> bool:
    match pre_tokenizer:
        case {"type": "ByteLevel"}:
            return bool(pre_tokenizer.get("use_regex", True))
        case {"type": "Split", "pattern": {"Regex": pattern}}:
            return pattern in _WORD_PATTERNS and not pre_tokenizer.get("invert")
    return False


def _is_byte_level(pre_tokenizers: list[dict[str, Any]]) -> bool:
    return any(step["type"] == "ByteLevel" for step in pre_tokenizers)


def _word_end(text: str, start: int, end: int) -> int:
    match = _LAST_WORD_END.match(text, start, end + 1) or _NEXT_WORD_END.search(text, end)
    return match.end() if match else len(text)


class _MergeGaps:
    """The safe cuts of BPE over whole texts: between two characters that no token has side by side."""

    def __init__(self, vocabulary: Collection[str], *, byte_level: bool) -> None:
        self._byte_characters = byte_characters() if byte_level else None
        self._tokens = {token for token in vocabulary if len(token) == 1}
        self._joined = {token[place : place + 2] for token in vocabulary for place in range(len(token) - 1)}

    def __call__(self, text: str, start: int, end: int) -> int:
        places = chain(range(end, start, -1), range(end + 1, len(text)))
        return next((place for place in places if self._is_gap(text[place - 1], text[place])), len(text))

    def _is_gap(self, before: str, after: str) -> bool:
        if self._byte_characters is not None:
            before = self._byte_characters[before.encode(errors="replace")[-1]]
            after = self._byte_characters[after.encode(errors="replace")[0]]
        else:
            before, after = before.replace(" ", _MARK), after.replace(" ", _MARK)
        # Characters without a token, side by side, may be one token for the unknown.
        return before in self._tokens and after in self._tokens and before + after not in self._joined
