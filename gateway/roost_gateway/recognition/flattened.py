"""Tool calls that a client has written into the assistant's text, as smolagents does. Pure."""

import ast
import json
import re

from roost.contract.messages import ToolCall

_CALLS = re.compile(r"(?:\A|\n)Calling tools:\n(\[\{'id': .*\}\])\s*\Z", re.DOTALL)
_MOST_CHARACTERS = 64 * 1024
"""Of calls that are parsed; longer ones stay text."""


def calls_in(text: str) -> tuple[ToolCall, ...]:
    """The calls at the end of an assistant's text, as a Python list of dicts after the line `Calling tools:`; none when
    it has none."""
    match = _CALLS.search(text, max(0, len(text) - _MOST_CHARACTERS)) if "Calling tools:\n" in text else None
    if match is None:
        return ()
    try:
        return tuple(_call(call["id"], call["function"]) for call in ast.literal_eval(match[1]))
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return ()


def _call(name: str, function: dict[str, object]) -> ToolCall:
    arguments = function["arguments"]
    return ToolCall(
        str(name), str(function["name"]), arguments if isinstance(arguments, str) else json.dumps(arguments)
    )
