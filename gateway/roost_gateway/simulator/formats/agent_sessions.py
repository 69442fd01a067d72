"""The project's own session files: one JSON object per line and session, gzipped or not.

Each request is `[t, in, out, blocks, reused_prefix_blocks, api_time, think_time, stop]`; the last three may be null. A
subagent is an object with its own requests under `sub`, and runs as a session of its own. The prefix is the system
prompt with the tools' definitions, `sys` and `tool` tokens; sessions with equal numbers share it.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roost_gateway.simulator.formats.turns import Request, session_of
from roost_gateway.simulator.workload import Session


def load(path: Path) -> Iterator[Session]:
    """Return the sessions of a file, subagents after their parents. Raise ValueError when a line is not a session."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield from _sessions(json.loads(line))


def _sessions(document: dict[str, Any]) -> Iterator[Session]:
    name, block = document["id"], document["bs"]
    prefix = (document["sys"] or 0) + (document["tool"] or 0)
    rows = document["r"]
    yield session_of(name, [_request(row, block) for row in rows if isinstance(row, list)], block, prefix)
    for number, agent in enumerate(row for row in rows if isinstance(row, dict)):
        requests = [_request(row, block, agent["t"]) for row in agent["sub"]]
        if requests:
            yield session_of(f"{name}/agent-{number}", requests, block)


def _request(row: list[Any], block_tokens: int, begin: float = 0.0) -> Request:
    time, prompt, output, _, reused, seconds, gap, stop = row
    return Request(begin + time, prompt, output, reused * block_tokens, seconds, gap, stop == "tool_use")
