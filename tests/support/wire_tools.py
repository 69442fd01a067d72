"""The tools that real agent clients sent, from their recorded requests."""

import json
from typing import Any

from roost_worker.render.messages import Tool
from wire_requests import FOLDER, requests_of


def tool_lists() -> dict[str, tuple[Tool, ...]]:
    """The functions of each client's first request that has any; of equal lists the first."""
    lists: dict[str, tuple[Tool, ...]] = {}
    for client in sorted(path.stem for path in FOLDER.glob("*.jsonl")):
        offered = (_functions(request.body) for request in requests_of(client))
        tools = next(filter(None, offered), ())
        if tools and tools not in lists.values():
            lists[client] = tools
    return lists


def _functions(body: dict[str, Any]) -> tuple[Tool, ...]:
    """The tools that a model calls with JSON; servers' own tools and those with free text have no schema."""
    # In chat completions, what says more of a function is in a part of its own.
    flat = ({**tool, **tool.get("function", {})} for tool in body.get("tools", ()))
    return tuple(map(_tool, (tool for tool in flat if {"parameters", "input_schema"} & tool.keys())))


def _tool(function: dict[str, Any]) -> Tool:
    schema = function.get("parameters", function.get("input_schema"))
    return Tool(function["name"], function.get("description", ""), json.dumps(schema))
