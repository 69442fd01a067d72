"""Mooncake's traces: JSON lines of `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, each id naming a
block of 512 tokens with all that is before it.

The trace names no sessions. A request belongs to the session whose last prompt it begins with, up to its last full
block; else it begins a session, and blocks at its start that other requests have had are its prefix. A gap is from
request to request, since the trace does not say how long a request took: it includes the recorded service.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from roost_gateway.simulator.formats.turns import Request, session_of
from roost_gateway.simulator.workload import Session

BLOCK_TOKENS = 512


@dataclass(slots=True)
class _Chain:
    prefix: str
    prefix_tokens: int
    requests: list[Request] = field(default_factory=list)
    blocks: Sequence[int] = ()
    """Of the last prompt."""
    end: int = -1
    """The last of them that is full, or the only one."""


def load(path: Path) -> Iterator[Session]:
    """Return the sessions of a trace, in the order in which they begin."""
    chains: list[_Chain] = []
    ends: dict[int, _Chain] = {}
    known: set[int] = set()
    with path.open() as lines:
        for line in lines:
            document = json.loads(line)
            blocks: Sequence[int] = document["hash_ids"]
            chain = next((ends[block] for block in reversed(blocks) if block in ends), None)
            if chain is None:
                shared = sum(1 for _ in takewhile(known.__contains__, blocks))
                prefix = f"block {blocks[shared - 1]}" if shared else ""
                chain = _Chain(prefix, shared * BLOCK_TOKENS)
                chains.append(chain)
            ends.pop(chain.end, None)
            _append(chain, document)
            ends[chain.end] = chain
            known.update(blocks)
    for number, chain in enumerate(chains):
        yield session_of(f"session-{number}", chain.requests, BLOCK_TOKENS, chain.prefix_tokens, chain.prefix)


def _append(chain: _Chain, document: dict[str, Any]) -> None:
    prompt, blocks = document["input_length"], document["hash_ids"]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chain.blocks, blocks, strict=False)))
    reused = min(same * BLOCK_TOKENS, prompt - 1)
    time = document["timestamp"] / 1000
    chain.requests.append(Request(time, prompt, document["output_length"], reused, None, None, calls_tool=False))
    chain.blocks, chain.end = blocks, blocks[max(0, prompt // BLOCK_TOKENS - 1)]
