#!/usr/bin/env bash
# llguidance 1.9.1 (PyPI): an object's named key comes a second time, spelled with an escape and with any value.
#
# The keys that `additionalProperties` leaves free may be written with \u escapes, and are compared with the names in
# `properties` as they are written. One would guess that a key is compared as what it means, as every JSON reader does.
# A key that matches `patternProperties` has one spelling only: with the pattern "" and `additionalProperties: false` the
# object is as open, and the second key is refused. But keywords are applied in their order, and the pattern is forgotten
# when `const` stands between the two.
#
# Seen on 2026-11-29: "additional: True, by pattern: False; const in between: False, const last: True".
# Exit status 0 while it is so. Needs PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check llguidance==1.9.1
cat >finding.py <<'SOURCE'
import json
import sys

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper


class Bytes:
    """A tokenizer with a token per byte."""

    eos_token_id = bos_token_id = 256
    special_token_ids = [256]
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def takes(schema: dict[str, object], text: str) -> bool:
    options = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    grammar = json.dumps({"grammars": [{"json_schema": {**schema, "x-guidance": options}}]})
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    return all(matcher.consume_token(byte) for byte in text.encode()) and matcher.is_accepting()


TOKENIZER = LLTokenizer(TokenizerWrapper(Bytes()))
NAMED = {"type": "object", "properties": {"x": {"type": "integer"}}}
BY_PATTERN = {"patternProperties": {"": True}, "additionalProperties": False}
REPEATED = '{"x":1,"\\u0078":"text"}'
CONST = {"type": "object", "additionalProperties": False, "const": {"y": 1}, "patternProperties": {"": True}}

seen = (
    takes(NAMED, REPEATED),
    takes({**NAMED, **BY_PATTERN}, REPEATED),
    takes(CONST, '{"y":1}'),
    takes({"type": "object", **BY_PATTERN, "const": {"y": 1}}, '{"y":1}'),
)
print(f"additional: {seen[0]}, by pattern: {seen[1]}; const in between: {seen[2]}, const last: {seen[3]}")
sys.exit(seen != (True, False, False, True))
SOURCE
venv/bin/python finding.py
