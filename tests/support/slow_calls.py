"""A slow reader of tool calls, to judge the parsers by: the whole text at once, character by character, recursive."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

Call = tuple[str, Any]
Result = tuple[str, list[str], list[Call]]
"""Content, thoughts and calls."""
HEX = "0123456789abcdefABCDEF"


@dataclass(frozen=True)
class Marks:
    """What stands around calls and thinking. With a header the name stands before the arguments."""

    open: str
    close: str
    think: tuple[str, str]
    header: bool
    around: tuple[str, ...] = ()


HERMES = Marks("<tool_call>", "</tool_call>", ("<think>", "</think>"), header=False)
MISTRAL = Marks("[TOOL_CALLS]", "", ("[THINK]", "[/THINK]"), header=True)
DEEPSEEK = Marks(
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    ("<think>", "</think>"),
    header=True,
    around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
)
SEPARATOR = "<｜tool▁sep｜>"
MARKS = {"mistral-v11": MISTRAL, "mistral-v13": MISTRAL, "deepseek-r1": DEEPSEEK}


class BrokenError(Exception):
    """The text is not JSON from `at` on; at the end of the text it may become JSON."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def slow_parse(name: str, text: str, tools: Collection[str], *, cut_off: bool) -> tuple[str, str, list[Call]]:
    """Return content, reasoning and calls, as name and arguments, of a text in the format `name`.

    `cut_off`: thinking that does not end was cut off; else its mark is text.
    """
    if name == "llama3.1":
        content, thoughts, calls = _llama31(text, tools)
    elif name in ("mistral-v3", "mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken"):
        content, thoughts, calls = _mistral(text, tools)
    else:
        content, thoughts, calls = _marked(MARKS.get(name, HERMES), text, tools, cut_off)
    return content.strip() if calls or thoughts else text, "\n".join(thoughts).strip(), calls


def _marked(marks: Marks, text: str, tools: Collection[str], cut_off: bool) -> Result:
    kept, thoughts, calls, at = list[str](), list[str](), list[Call](), 0
    opened = text[_blanks(text, 0) :]
    if opened.startswith(marks.think[0]) and (marks.think[1] in opened or cut_off):
        thought, _, rest = opened.removeprefix(marks.think[0]).partition(marks.think[1])
        thoughts.append(thought)
        at = len(text) - len(rest)
    while at < len(text):
        around = [mark for mark in marks.around if text.startswith(mark, at)]
        if text.startswith(marks.open, at):
            stop, own, rest = _wrapper(marks, text, at, tools)
            kept.append(rest)
            calls += own
        else:
            kept.append(around[0] if around else text[at])
            stop = at + len(kept[-1])
        at = stop
    return "".join(part for part in kept if not calls or part not in marks.around), thoughts, calls


def _wrapper(marks: Marks, text: str, at: int, tools: Collection[str]) -> tuple[int, list[Call], str]:
    """Return where the wrapper ends, its calls, and what of it stays text."""
    begin = at + len(marks.open)
    start = _header_end(marks, text, begin) if marks.header else _blanks(text, begin)
    header = text[begin:start]
    if start == len(text) or (text[start] not in "{[" and not marks.header):
        return start, [], text[at:start]
    name = (_name(marks, header) if text[start] == "{" else "") if marks.header else None
    if name == "":
        return begin, [], marks.open
    try:
        end = _value(text, start)
    except BrokenError as error:
        return error.at, [], text[at : error.at]
    close = _close(marks, text, end, "```" in header) if marks.close else end
    if close < 0:
        return -close, [], text[at:-close]
    if name is None:
        calls, rest = _calls(text[start:end], tools, "arguments")
    else:
        calls, rest = [(name, json.loads(text[start:end]))] if name in tools else [], ""
    return close, calls, rest if calls else text[at:close]


def _header_end(marks: Marks, text: str, begin: int) -> int:
    """Return where the arguments begin, or another position if they do not: the text's end when they may still come."""
    for at in range(begin, min(len(text), begin + 512)):
        if text[at] == "{" or (text.startswith(marks.open, at) and at + len(marks.open) <= begin + 512):
            return at
    return begin if len(text) - begin >= 512 else len(text)


def _name(marks: Marks, header: str) -> str:
    header = header.strip(" \n")
    if marks is MISTRAL:
        name, mark, call_id = header.removesuffix("[ARGS]").partition("[CALL_ID]")
        return name if _is_word(name, "[]{}") and (not mark or _is_word(call_id, "[]{}")) else ""
    for fence in ("```json", "```"):
        if header.endswith(fence):
            header = header.removesuffix(fence).rstrip(" \n")
            break
    header = header.removesuffix(SEPARATOR)
    name = header.removeprefix(f"function{SEPARATOR}")
    return name if _is_word(name, "<{`") else ""


def _is_word(text: str, forbidden: str) -> bool:
    return bool(text) and not any(character.isspace() or character in forbidden for character in text)


def _close(marks: Marks, text: str, end: int, fenced: bool) -> int:
    """Return the position after the closing mark; less than 0, and of what stands there instead, if it is not there."""
    at = _blanks(text, end)
    if fenced and "```".startswith(text[at:]):
        return len(text)
    if fenced and text.startswith("```", at):
        at = _blanks(text, at + 3)
    if text.startswith(marks.close, at):
        return at + len(marks.close)
    return len(text) if marks.close.startswith(text[at:]) else -at


def _llama31(text: str, tools: Collection[str]) -> Result:
    at = _blanks(text, 0)
    if text.startswith("<|python_tag|>", at):
        at = _blanks(text, at + len("<|python_tag|>"))
    values = []
    while at < len(text):
        if text[at] != "{":
            return text, [], []
        try:
            end = _value(text, at)
        except BrokenError:
            return text, [], []
        values.append(_calls(text[at:end], tools, "parameters"))
        at = end
        while at < len(text) and text[at] in "; \n\t\r":
            at += 1
    return "\n".join(rest for _, rest in values if rest), [], [call for calls, _ in values for call in calls]


def _mistral(text: str, tools: Collection[str]) -> Result:
    mark, at = "[TOOL_CALLS]", _blanks(text, 0)
    marked = text.startswith(mark, at)
    end = _list_end(text, _blanks(text, at + len(mark)) if marked else at)
    before = ""
    if end < 0 and not marked:
        at = text.find(mark, -end - 1)
        before, end = text[:at], _list_end(text, _blanks(text, at + len(mark))) if at >= 0 else -1
        marked = True
    if end < 0:
        return text, [], []
    start = _blanks(text, at + len(mark)) if marked else at
    calls, rest = _calls(text[start:end], tools, "arguments")
    return "\n".join(filter(None, (before.strip(), rest))), [], calls


def _list_end(text: str, at: int) -> int:
    """Return where a list ends that nothing follows; else -1 less the position of what breaks it."""
    if text[at : at + 1] != "[":
        return -1 - at
    try:
        end = _value(text, at)
    except BrokenError as error:
        return -1 - error.at
    return end if _blanks(text, end) == len(text) else -1 - _blanks(text, end)


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
