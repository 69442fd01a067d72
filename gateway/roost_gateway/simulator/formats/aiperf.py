"""aiperf's multi-turn data sets: a JSON line per conversation with `session_id` and `turns`.

A turn has `text` or `texts`, and may have `output_length`, `delay` (ms after the previous turn's end) and `timestamp`
(ms). A leading turn of the role `system` is the conversation's system prompt, which equal conversations share. Texts
are counted as the gateway estimates them before it has a worker's figures.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roost_gateway.admission.estimate import DEFAULT_BYTES_PER_TOKEN, MESSAGE_TOKENS
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn

DEFAULT_OUTPUT_TOKENS = 128
"""Of a turn that does not say."""


def load(path: Path) -> Iterator[Session]:
    """Return the session of each line."""
    with path.open() as lines:
        for number, line in enumerate(line for line in lines if line.strip()):
            document = json.loads(line)
            yield _session(document.get("session_id") or f"session-{number}", document["turns"])


def _session(name: str, rows: Sequence[Mapping[str, Any]]) -> Session:
    leading = rows[0] if rows[0].get("role") == "system" and len(rows) > 1 else None
    rows = rows[1:] if leading is not None else rows
    prefix = hashlib.blake2b(_text(leading).encode(), digest_size=8).hexdigest() if leading is not None else ""
    tokens = _tokens(leading) if leading is not None else 0
    start = (rows[0].get("timestamp") or 0) / 1000
    return Session(name, tuple(map(_turn, rows)), prefix, tokens, start)


def _turn(row: Mapping[str, Any]) -> Turn:
    output = row.get("output_length") or DEFAULT_OUTPUT_TOKENS
    return Turn(ALL_TOKENS, _tokens(row), output, (row.get("delay") or 0) / 1000)


def _tokens(row: Mapping[str, Any]) -> int:
    return int(len(_text(row).encode()) / DEFAULT_BYTES_PER_TOKEN) + MESSAGE_TOKENS


def _text(row: Mapping[str, Any]) -> str:
    return row.get("text") or "".join(row.get("texts") or ())
