"""Tool calls that a client has written into the assistant's text, as smolagents does. Pure."""

import ast
import json

from roost.contract.messages import ToolCall

_LINE, _FIRST, _LAST = "Calling tools:\n", "[{'id': ", "}]"
_MOST_CHARACTERS = 64 * 1024
"""Of calls that are parsed; longer ones stay text."""


def calls_in(text: str) -> tuple[ToolCall, ...]:
    """The calls at the end of an assistant's text, as a Python list of dicts after the line `Calling tools:`; none when
    it has none."""
    before, line, calls = text.rpartition(_LINE)
    is_line = line and (not before or before.endswith("\n"))
    calls = calls.rstrip()
    if not (is_line and calls.startswith(_FIRST) and calls.endswith(_LAST)) or len(calls) > _MOST_CHARACTERS:
        return ()
    try:
        return tuple(_call(call["id"], call["function"]) for call in ast.literal_eval(calls))
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return ()


def _call(name: str, function: dict[str, object]) -> ToolCall:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(str(name), str(function["name"]), text)
