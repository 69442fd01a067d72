#!/usr/bin/env bash
# llguidance 1.9.1 with tokenizers 0.23.3 (PyPI): a mask allows one token only, and that token is then refused.
#
# A tokenizer has an added token <call> that is not flagged special, as Qwen's <tool_call> is not. For a grammar that
# begins with the literal "<call>" the mask of the first token holds that token alone, so that nothing else can be
# sampled; consume_token refuses it ("byte 0xFF fails parse"): llguidance takes the spelling <...> for a special token,
# whatever the flag says, and literals do not match special tokens. With [call] instead both agree. One would guess that
# what a mask allows can be consumed, and that the flag decides. Grammars that name the token by its id work.
#
# Seen on 2026-11-29: "<call>: mask ['<call>'], taken: False" and "[call]: mask ['[call]'], taken: True".
# Exit status 0 while it is so. Needs PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check llguidance==1.9.1 tokenizers==0.23.3 numpy==2.4.6
cat >finding.py <<'SOURCE'
import json
import sys

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MARKS = ("<call>", "[call]")

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
size = tokenizer.get_vocab_size()
masks = LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=tokenizer.token_to_id("</s>"))


def first_allowed(literal: str) -> list[str]:
    matcher = LLMatcher(masks, "start: " + json.dumps(literal), log_level=0)
    row = np.zeros((1, (size + 31) // 32), dtype=np.int32)
    fill_next_token_bitmask(matcher, row, 0)
    words = row[0].view(np.uint32)
    return [tokenizer.id_to_token(token) for token in range(size) if words[token >> 5] >> (token & 31) & 1]


def takes(literal: str) -> bool:
    matcher = LLMatcher(masks, "start: " + json.dumps(literal), log_level=0)
    return matcher.consume_token(tokenizer.token_to_id(literal))


seen = {mark: (first_allowed(mark), takes(mark)) for mark in MARKS}
for mark, (allowed, taken) in seen.items():
    print(f"{mark}: mask {allowed}, taken: {taken}")
sys.exit(seen != {"<call>": (["<call>"], False), "[call]": (["[call]"], True)})
SOURCE
venv/bin/python finding.py
