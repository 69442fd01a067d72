"""A slow reader of tool calls, to judge the parsers by: the whole text at once, character by character, recursive."""

import json
from collections.abc import Callable, Collection
from typing import Any

Call = tuple[str, Any]
Result = tuple[str, list[Call]]
OPEN, CLOSE, THINK, END_THINK = "<tool_call>", "</tool_call>", "<think>", "</think>"
HEX = "0123456789abcdefABCDEF"


class BrokenError(Exception):
    """The text is not JSON from `at` on; at the end of the text it may become JSON."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def slow_parse(family: str, text: str, tools: Collection[str]) -> Result:
    """Return content and calls, as name and arguments."""
    reader: Callable[[str, Collection[str]], Result] = {"llama3": _llama3, "mistral": _mistral}.get(family, _hermes)
    content, calls = reader(text, tools)
    return (content.strip(), calls) if calls else (text, [])


def _hermes(text: str, tools: Collection[str]) -> Result:
    kept, calls, at = "", list[Call](), 0
    while at < len(text):
        if text.startswith(THINK, at):
            stop = text.find(END_THINK, at)
            stop = len(text) if stop < 0 else stop + len(END_THINK)
            kept += text[at:stop]
        elif text.startswith(OPEN, at):
            stop, own, rest = _wrapper(text, at, tools)
            kept += rest
            calls += own
        else:
            stop = at + 1
            kept += text[at]
        at = stop
    return kept, calls


def _wrapper(text: str, at: int, tools: Collection[str]) -> tuple[int, list[Call], str]:
    """Return where the wrapper ends, its calls, and what of it stays text."""
    start = _blanks(text, at + len(OPEN))
    if text[start : start + 1] not in ("{", "["):
        return start, [], text[at:start]
    try:
        end = _value(text, start)
    except BrokenError as error:
        return error.at, [], text[at : error.at]
    close = _blanks(text, end)
    if not text.startswith(CLOSE, close) and not CLOSE.startswith(text[close:]):
        return close, [], text[at:close]
    stop = min(len(text), close + len(CLOSE))
    calls, rest = _calls(text[start:end], tools, "arguments")
    return stop, calls, rest if calls else text[at:stop]


def _llama3(text: str, tools: Collection[str]) -> Result:
    at = _blanks(text, 0)
    if text.startswith("<|python_tag|>", at):
        at = _blanks(text, at + len("<|python_tag|>"))
    values = []
    while at < len(text):
        if text[at] != "{":
            return text, []
        try:
            end = _value(text, at)
        except BrokenError:
            return text, []
        values.append(_calls(text[at:end], tools, "parameters"))
        at = end
        while at < len(text) and text[at] in "; \n\t\r":
            at += 1
    return "\n".join(rest for _, rest in values if rest), [call for calls, _ in values for call in calls]


def _mistral(text: str, tools: Collection[str]) -> Result:
    at = _blanks(text, 0)
    if text.startswith("[TOOL_CALLS]", at):
        at = _blanks(text, at + len("[TOOL_CALLS]"))
    if text[at : at + 1] != "[":
        return text, []
    try:
        end = _value(text, at)
    except BrokenError:
        return text, []
    if text[end:].strip(" \n\t\r"):
        return text, []
    calls, rest = _calls(text[at:end], tools, "arguments")
    return rest, calls


def _calls(source: str, tools: Collection[str], key: str) -> tuple[list[Call], str]:
    calls, rest = list[Call](), list[str]()
    for element in _elements(source):
        pairs = json.loads(element, object_pairs_hook=list) if element.startswith("{") else []
        members = json.loads(element) if pairs else {}
        other = "parameters" if key == "arguments" else "arguments"
        bare = {} if set(members) <= {"name", "id", "type"} else None
        arguments = members.get(key, members.get(other, bare))
        name = members.get("name")
        twice = len({key for key, _ in pairs}) < len(pairs)
        if isinstance(name, str) and name in tools and isinstance(arguments, dict) and not twice:
            calls.append((name, arguments))
        else:
            rest.append(element)
    return calls, "\n".join(rest)


def _elements(source: str) -> list[str]:
    if source.startswith("{"):
        return [source]
    elements, at = list[str](), _blanks(source, 1)
    while source[at] != "]":
        end = _value(source, at)
        elements.append(source[at:end])
        at = _blanks(source, end)
        at = _blanks(source, at + 1) if source[at] == "," else at
    return elements


def _value(text: str, at: int) -> int:
    """Return the end of the JSON value at `at`."""
    first = _character(text, at)
    if first == '"':
        return _string(text, at + 1)
    if first in "{[":
        return _container(text, at, "}" if first == "{" else "]")
    end = at
    while end < len(text) and (text[end] in "-+." or (text[end].isascii() and text[end].isalnum())):
        end += 1
    _character(text, end)
    word = text[at:end]
    try:
        json.loads(word, parse_constant=lambda _: [][0])
    except (ValueError, IndexError):
        raise BrokenError(end) from None
    return end


def _container(text: str, at: int, closer: str) -> int:
    at = _blanks(text, at + 1)
    if _character(text, at) == closer:
        return at + 1
    while True:
        if closer == "}":
            if _character(text, at) != '"':
                raise BrokenError(at)
            at = _blanks(text, _string(text, at + 1))
            if _character(text, at) != ":":
                raise BrokenError(at)
            at = _blanks(text, at + 1)
        at = _blanks(text, _value(text, at))
        if _character(text, at) == closer:
            return at + 1
        if text[at] != ",":
            raise BrokenError(at)
        at = _blanks(text, at + 1)


def _string(text: str, at: int) -> int:
    while (character := _character(text, at)) != '"':
        if character < " ":
            raise BrokenError(at)
        at = _escape(text, at) if character == "\\" else at + 1
    return at + 1


def _escape(text: str, at: int) -> int:
    code = _character(text, at + 1)
    if code != "u":
        if code not in '"\\/bfnrt':
            raise BrokenError(at)
        return at + 2
    unit = _unit(text, at, at)
    if 0xDC00 <= unit < 0xE000:
        raise BrokenError(at)
    if not 0xD800 <= unit < 0xDC00:
        return at + 6
    if _character(text, at + 6) != "\\" or _character(text, at + 7) != "u":
        raise BrokenError(at)
    if not 0xDC00 <= _unit(text, at + 6, at) < 0xE000:
        raise BrokenError(at)
    return at + 12


def _unit(text: str, at: int, start: int) -> int:
    for place in range(at + 2, at + 6):
        if _character(text, place) not in HEX:
            raise BrokenError(start)
    return int(text[at + 2 : at + 6], 16)


def _character(text: str, at: int) -> str:
    if at >= len(text):
        raise BrokenError(len(text))
    return text[at]


def _blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at
