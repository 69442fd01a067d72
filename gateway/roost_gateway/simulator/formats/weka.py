"""WEKA's kv-cache-tester traces: a JSON file per session, or a folder of them.

A session has `id`, `block_size`, `tool_tokens`, `system_tokens` and `requests`. A request has `t` (seconds), `in`,
`out`, `hash_ids` of the prompt's blocks, `stop`, and in newer traces `api_time` and `think_time`. A request of the type
`subagent` has requests of its own, which run as a session of their own.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from roost_gateway.simulator.formats.turns import Request, session_of
from roost_gateway.simulator.workload import Session


def load(path: Path) -> Iterator[Session]:
    """Return the sessions of a trace or of all in a folder, subagents after their parents."""
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        yield from _sessions(json.loads(file.read_text()))


def _sessions(document: dict[str, Any]) -> Iterator[Session]:
    name, block = document["id"], document["block_size"]
    prefix = (document.get("tool_tokens") or 0) + (document.get("system_tokens") or 0)
    rows = document["requests"]
    own = _requests([row for row in rows if row["type"] != "subagent"], block)
    if own:
        yield session_of(name, own, block, prefix)
    for number, agent in enumerate(row for row in rows if row["type"] == "subagent"):
        requests = _requests(agent["requests"], block, agent["t"])
        if requests:
            yield session_of(f"{name}/agent-{number}", requests, block)


def _requests(rows: Sequence[dict[str, Any]], block_tokens: int, begin: float = 0.0) -> list[Request]:
    requests: list[Request] = []
    before: Sequence[int] = ()
    for row in rows:
        blocks = row["hash_ids"]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, blocks, strict=False)))
        calls_tool = row.get("stop") == "tool_use"
        seconds, gap = row.get("api_time"), row.get("think_time")
        time = begin + row["t"]
        requests.append(Request(time, row["in"], row["out"], same * block_tokens, seconds, gap, calls_tool))
        before = blocks
    return requests
