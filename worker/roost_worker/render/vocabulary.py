"""A tokenizer for two kinds of text: a template's own, and content, which never becomes a control token.

`tokenizers` has `encode_special_tokens` for this, but with it content can still become tokens that are added but not
marked special (Qwen's `<tool_call>`, `</think>`). So content is encoded by a copy of the tokenizer without any added
tokens, and control tokens are looked for in template text only, by exact match.
"""

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from roost_worker.render.errors import RenderError
from roost_worker.render.pieces import Piece
from roost_worker.render.tokenizing import byte_characters, max_bytes_per_token, safe_cuts, slices

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """Token ids of text and bytes of token ids, from a `tokenizer.json`."""

    def __init__(self, tokenizer_json: str) -> None:
        """Raise ValueError or LookupError when the text is not a tokenizer."""
        document = _document(tokenizer_json)
        added = document.get("added_tokens") or []
        self.control = {token["content"]: int(token["id"]) for token in added}
        """Text and id of every added token: content must never become one."""
        self._control_ids = frozenset(self.control.values())
        longest_first = sorted(filter(None, self.control), key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, longest_first)) or r"(?!)") + ")")
        plain = _without_added_tokens(document)
        self._tokenizer = _build(plain)
        self._cuts = safe_cuts(plain)
        self.max_bytes_per_token = max_bytes_per_token(plain, self._control_ids)
        """The most bytes of content that one token stands for; 0: not known."""
        self.special = {token["content"]: int(token["id"]) for token in added if token["special"]}
        """Those of `control` that add nothing to the text."""
        special = set(self.special.values())
        self.token_bytes = _token_bytes(document, self._tokenizer.get_vocab(), self.control, special)
        """The bytes that each id adds to the text; special tokens add none."""
        self.strips_first_space = _strips_first_space(document.get("decoder"))
        """Whether the tokenizer puts a space before the text (sentencepiece), which is removed from the first token."""

    @classmethod
    def from_file(cls, path: Path) -> "Vocabulary":
        """Read `tokenizer.json`. Raise RenderError when it is not a tokenizer."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, LookupError) as error:
            raise RenderError(f"{path} cannot be read as a tokenizer: {error}") from error

    def bytes_with_text_of(self, marks: Iterable[str]) -> tuple[bytes, ...]:
        """Return `token_bytes` in which special tokens that are `marks` add their own text."""
        table = list(self.token_bytes)
        for mark in marks:
            if mark in self.special:
                table[self.special[mark]] = mark.encode()
        return tuple(table)

    def spell(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without special tokens and those that pad the model's logits."""
        known = len(self.token_bytes)
        return b"".join(self.token_bytes[index] for index in ids if index < known).decode(errors="replace")

    def encode(self, pieces: Iterable[Piece]) -> "array[int]":
        """Return the ids of rendered pieces. Raise RenderError for text that is not Unicode.

        Adjacent plain text, of template and content, is encoded as one, so that ordinary content gets exactly the ids
        that encoding the whole text would give it.
        """
        ids = array("I")
        for part in self.encode_slices(pieces):
            ids.extend(part)
        return ids

    def encode_slices(self, pieces: Iterable[Piece]) -> "Iterator[array[int]]":
        """Yield the ids that `encode` returns bit by bit: each time those of a slice of the text, and of the control
        tokens before it. Raise RenderError as `encode` does."""
        ids = array("I")
        for text, control in self._runs(pieces):
            for part in slices(text, self._cuts):
                ids.extend(self._encode(part))
                yield ids
                ids = array("I")
            ids.extend(control)
        yield ids

    def _runs(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, list[int]]]:
        """Yield each run of plain text with the control tokens after it."""
        plain: list[str] = []
        for part in self._parts(pieces):
            if isinstance(part, int):
                yield "".join(plain), [part]
                plain.clear()
            else:
                plain.append(part)
        yield "".join(plain), []

    def _parts(self, pieces: Iterable[Piece]) -> Iterator[int | str]:
        for piece in pieces:
            if piece.content:
                yield piece.text
            else:
                yield from (self.control.get(part, part) for part in self._split.split(piece.text) if part)

    def encode_content(self, text: str) -> list[int]:
        """Return ids of plain text, none of them a control token. Raise RenderError for text that is not Unicode."""
        return self.encode([Piece(text, True)]).tolist()

    def _encode(self, text: str) -> list[int]:
        try:
            # Unlike `encode`, it lets other threads run.
            ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (UnicodeEncodeError, TypeError) as error:
            raise RenderError(f"the text is not valid Unicode: {error}") from error
        if self._control_ids.isdisjoint(ids):
            return ids
        # A vocabulary may have a control token's text as an ordinary entry, too: cut the text until it cannot match.
        if len(text) == 1:
            raise RenderError(f"the character {text!r} is a control token of this model and cannot be content")
        middle = len(text) // 2
        return self._encode(text[:middle]) + self._encode(text[middle:])


def _document(tokenizer_json: str) -> dict[str, Any]:
    document = json.loads(tokenizer_json)
    if not isinstance(document, dict) or "model" not in document:
        raise ValueError("it has no model")
    return document


def _build(document: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # tokenizers raises nothing more specific
        raise ValueError(str(error)) from error


def _without_added_tokens(document: dict[str, Any]) -> dict[str, Any]:
    plain = {**document, "added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
    plain["normalizer"] = _drop_prefix(document.get("normalizer"))
    plain["pre_tokenizer"] = _drop_prefix(document.get("pre_tokenizer"))
    return plain


def _drop_prefix(part: Any) -> Any:
    """Remove the space that sentencepiece tokenizers put before text, since our text continues other text."""
    match part:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**part, "prepend_scheme": "never"}
        case {"type": "Sequence", "normalizers": inner}:
            return {**part, "normalizers": [kept for item in inner if (kept := _drop_prefix(item))]}
        case {"type": "Sequence", "pretokenizers": inner}:
            return {**part, "pretokenizers": [kept for item in inner if (kept := _drop_prefix(item))]}
    return part


def _token_bytes(
    document: dict[str, Any], vocabulary: dict[str, int], control: dict[str, int], special: set[int]
) -> tuple[bytes, ...]:
    size = 1 + max((*vocabulary.values(), *control.values()), default=-1)
    table = [b""] * size
    to_bytes = _byte_level if _mentions(document.get("decoder"), "ByteLevel") else _sentencepiece
    for token, index in vocabulary.items():
        table[index] = to_bytes(token)
    for token, index in control.items():
        table[index] = b"" if index in special else token.encode()
    return tuple(table)


def _strips_first_space(decoder: Any) -> bool:
    match decoder:
        case {"type": "Sequence", "decoders": parts}:
            return any(map(_strips_first_space, parts))
        case {"type": "Strip", "content": " ", "start": start}:
            return bool(start > 0)
        case {"type": "Metaspace"}:
            return bool(decoder.get("prepend_scheme") != "never")
    return False


def _mentions(part: Any, kind: str) -> bool:
    return f'"{kind}"' in json.dumps(part)


_BYTES_OF = {character: byte for byte, character in enumerate(byte_characters())}


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("\u2581", " ").encode()
