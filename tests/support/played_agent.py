"""A played agent: it reads three files with whatever tool its client has, and answers with what they hold."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_stack import Said

FILES = ("a.txt", "b.txt", "c.txt")
_TOOLS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "exec_command": lambda name: {"cmd": f"cat {name}"},
    "Read": lambda name: {"file_path": name},
    "read": lambda name: {"path": name},
    "read_file": lambda name: {"path": name},
}
_ARGUMENT = re.compile(r'"name": "read".*?"(filePath|path)"', re.DOTALL)
_DEFINED = re.compile(r'"function": \{"name": "([A-Za-z0-9_.-]+)"')
_NUMBER = re.compile(r"number (\d+)")


def answer(turns: Sequence[Said]) -> str:
    """What the agent writes: a call with text, two calls at once without text, then the answer."""
    system = turns[0].text if turns and turns[0].role == "system" else ""
    tool = next((name for name in _DEFINED.findall(system) if name in _TOOLS), "")
    tasks = (number for number, turn in enumerate(turns) if turn.role == "user" and not _is_result(turn))
    last_task = max(tasks, default=0)
    results = [turn.text for turn in turns[last_task:] if _is_result(turn)]
    count = sum(text.count("<tool_response>") for text in results)
    if not tool:
        return "Reading files"
    if count == 0:
        return f"Let me look.\n{_call(tool, system, FILES[0])}"
    if count == 1:
        return "\n".join(_call(tool, system, name) for name in FILES[1:])
    return "The numbers are " + ", ".join(_NUMBER.findall("\n".join(results)))


def _is_result(turn: Said) -> bool:
    return turn.role == "user" and "<tool_response>" in turn.text


def _call(tool: str, system: str, name: str) -> str:
    arguments = dict(_TOOLS[tool](name))
    if tool == "read" and (match := _ARGUMENT.search(system)):
        arguments = {match[1]: name}
    return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': arguments})}\n</tool_call>"
