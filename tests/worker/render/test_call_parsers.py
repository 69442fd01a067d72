"""Parsers against a slow reader: the same calls for any text, in any chunks, in linear time."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.

import json
import re
from collections import defaultdict
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.contract.parts import joined
from roost_worker.render.formats import (
    FORMATS,
    CallParser,
    ParsedText,
    Turn,
    WrittenCall,
    calls,
    format_named,
    json_scanner,
    whole_text,
    wrapped,
)
from slow_calls import slow_parse

NAMES = ("chatml", "llama3.1", "mistral-v3", "mistral-v11", "deepseek-r1")
"""Of each parser a format."""
TOOLS = frozenset({"grep", "w"})
MARKS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "[CALL_ID]"),
    *(
        "[THINK]",
        "[/THINK]",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁sep｜>",
    ),
)
CALLS = (
    '{"name": "grep", "arguments": {"q": "}</tool_call>"}}',
    '{"name":"w","parameters":{"a":[1.10,-2e5,null,{}],"\\u0061":"\\ud83d\\ude00"}}',
    '{"name": "rm", "arguments": {}}',
    '{"name": "w"}',
    '{"name": "w", "age": 3}',
    '{"name": "w", "arguments": {}, "parameters": {"p": 1}, "id": "x"}',
    '{"name": "w", "name": "grep", "arguments": {}}',
    '{"name": "w", "arguments": "text"}',
)
PIECES = (
    *(
        '"',
        "\\",
        "\\u",
        "d83d",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        ";",
        " ",
        "\n",
        "\x01",
        "0",
        "-1.",
        "e5",
        "NaN",
        "tru",
        "e",
    ),
    *("<", "<t", "</", "[T", '{"name": "w", ', '"arguments": {', '"q": "', "text", "é😀", "\ufeff", "\u2028", "\xa0"),
)
fragments = st.one_of(st.sampled_from((*MARKS, *CALLS, *PIECES)), st.sampled_from(MARKS), st.text(max_size=3))
texts = st.lists(fragments, max_size=12).map("".join)
WRAPPED = {
    "chatml": "<tool_call>{}</tool_call>".format,
    "llama3.1": "{}; ".format,
    "mistral-v3": "[TOOL_CALLS] [{}]".format,
    "mistral-v11": "[TOOL_CALLS]w[ARGS]{}".format,
    "deepseek-r1": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>w\n```json\n{}\n```<｜tool▁call▁end｜>".format,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


def in_chunks(name: str, text: str, cuts: list[int], turn: Turn) -> ParsedText:
    """Parse the text; at each cut the parts so far must be those of the text so far."""
    parser = format_named(name).parser(turn)
    places = sorted({min(cut, len(text)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        parser.feed(text[start:end])
        if len(places) < 20:
            assert joined(parser.parts) == parts_of(name, text[:end], turn)
    return parser.finish()


def parts_of(name: str, text: str, turn: Turn) -> tuple[Part, ...]:
    parser = format_named(name).parser(turn)
    parser.feed(text)
    return joined(parser.parts)


def check_parts(parsed: ParsedText) -> None:
    """All parts together are the message; calls that broke off are the only others."""
    texts: dict[type | int, str] = defaultdict(str)
    names = {part.index: (part.id, part.name) for part in parsed.parts if isinstance(part, CallPart)}
    for part in parsed.parts:
        if not isinstance(part, CallPart):
            texts[part.index if isinstance(part, ArgumentsPart) else type(part)] += part.text
    assert (texts[TextPart], texts[ReasoningPart]) == (parsed.content, parsed.reasoning)
    assert list(names) == list(range(len(names)))
    for call in parsed.calls:
        call_id, name = names[call.number]
        assert (name, texts[call.number]) == (call.name, call.arguments_json)
        assert call_id in (call.id, ""), "an id after the arguments comes too late"
    assert {name for _, name in names.values()} <= TOOLS
    broken = names.keys() - {call.number for call in parsed.calls}
    assert not broken or parsed.warnings


def values(parsed: ParsedText) -> tuple[str, str, list[tuple[str, Any]]]:
    return parsed.content, parsed.reasoning, [(call.name, json.loads(call.arguments_json)) for call in parsed.calls]


@pytest.mark.parametrize("name", NAMES)
@given(
    start=st.sampled_from(("", " ", "\n<think>", "[THINK]", "\xa0<think>")),
    text=texts,
    wrapped=st.lists(st.sampled_from(CALLS), max_size=3),
    tokens=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_as_the_slow_reader_reads_it(
    name: str, start: str, text: str, wrapped: list[str], tokens: bool
) -> None:
    whole = start + text + "".join(map(WRAPPED[name], wrapped))
    parsed = format_named(name).parse(whole, Turn(TOOLS, thinking_tokens=tokens))
    content, *rest = values(parsed)
    slow_content, *slow_rest = slow_parse(name, whole, TOOLS, cut_off=tokens)
    assert rest == slow_rest
    if parsed.calls and not parsed.reasoning:  # text that was written before a call came keeps its first blanks
        assert (content.rstrip(), content.strip()) == (content, slow_content)
    else:
        assert content == slow_content
    assert all(call.arguments_json == "{}" or call.arguments_json in whole for call in parsed.calls)


@pytest.mark.parametrize("name", NAMES)
@given(
    start=st.sampled_from(("", " ", "\n<think>", "[THINK]")),
    wrapped=st.lists(st.sampled_from(CALLS) | fragments, max_size=4),
    text=texts,
    cuts=st.lists(st.integers(0, 200), max_size=8),
    constrained=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_chunks_give_what_the_whole_text_gives(
    name: str, start: str, wrapped: list[str], text: str, cuts: list[int], constrained: bool
) -> None:
    whole = start + "".join(map(WRAPPED[name], wrapped)) + text
    turns = (
        Turn(TOOLS, constrained=constrained),
        Turn(TOOLS, in_thinking=True),
        Turn(TOOLS, thinking_tokens=True),
        Turn(frozenset()),
    )
    for turn in turns:
        expected = format_named(name).parse(whole, turn)
        check_parts(expected)
        for places in (cuts, list(range(len(whole)))):
            parsed = in_chunks(name, whole, places, turn)
            assert (parsed, parsed.parts) == (expected, expected.parts)


plain_names = st.text(alphabet="abcXYZ019_-.", min_size=1, max_size=8)
names = {"mistral-v11": plain_names, "mistral-v13": plain_names, "deepseek-r1": plain_names}
"""Where a name stands outside JSON, it is as the contract has it; others may have been committed by older versions."""


@pytest.mark.parametrize("name", [known.name for known in FORMATS])
@given(data=st.data(), ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
@settings(max_examples=60, deadline=None)
def test_a_call_that_is_written_is_read_back_as_it_was(
    name: str, data: st.DataObject, ascii_only: bool, indent: int | None
) -> None:
    call = st.tuples(names[name] if name in names else plain_names | st.text(min_size=1, max_size=8), arguments)
    given_calls = data.draw(st.lists(call, min_size=1, max_size=3))
    written = tuple(
        WrittenCall(tool, json.dumps(values, ensure_ascii=ascii_only, indent=indent)) for tool, values in given_calls
    )
    text, turn = format_named(name).calls.write(written), Turn({tool for tool, _ in given_calls})
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5))
    assert in_chunks(name, text, cuts, turn) == ParsedText("", written)
    if len(written) == 1 and re.fullmatch(r"[A-Za-z0-9_.-]+", written[0].name):
        assert format_named(name).parse(text, replace(turn, constrained=True)) == ParsedText("", written)


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(max_size=200) | st.text(alphabet='<>/tool_cahink{}[]",:\\ud8 1e-TOLCAS｜▁`', max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_raises(name: str, text: str) -> None:
    parsed = format_named(name).parse(text, Turn(TOOLS))
    assert parsed.content == text or parsed.calls or parsed.reasoning or "think" in text.lower()


class CountingPattern:
    """A compiled pattern that counts the characters that it looks at."""

    visited = 0

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def _count(self, match: re.Match[str] | None, at: int, otherwise: int) -> re.Match[str] | None:
        CountingPattern.visited += 1 + (match.end() - at if match else otherwise)
        return match

    def match(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._count(self._pattern.match(text, at), at, 1)

    def search(self, text: str, at: int = 0, end: int = 1 << 60) -> re.Match[str] | None:
        return self._count(self._pattern.search(text, at, end), at, min(end, len(text)) - at)

    def fullmatch(self, text: str, at: int = 0, end: int = 1 << 60) -> re.Match[str] | None:
        return self._count(self._pattern.fullmatch(text, at, end), at, min(end - at, 512, len(text) - at))


class CountingDecoder:
    def __init__(self, decoder: json.JSONDecoder) -> None:
        self._decoder = decoder

    def decode(self, text: str) -> Any:
        CountingPattern.visited += len(text)
        return self._decoder.decode(text)

    def raw_decode(self, text: str, at: int) -> tuple[Any, int]:
        value, end = self._decoder.raw_decode(text, at)
        CountingPattern.visited += end - at
        return value, end


def count_visits(monkeypatch: pytest.MonkeyPatch, owner: ModuleType | CallParser) -> None:
    for name, value in list(vars(owner).items()):
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(owner, name, CountingPattern(value))
        elif isinstance(value, json.JSONDecoder):
            monkeypatch.setattr(owner, name, CountingDecoder(value))


HOSTILE = {
    "openers": "<tool_call>",
    "broken objects": '<tool_call>{"',
    "open strings": '<tool_call>{"a":"',
    "unclosed calls": '<tool_call>{"name": "w"}',
    "calls of nobody": '<tool_call>{"name": "x", "arguments": {}}</tool_call>',
    "beginnings of marks": "<tool_cal",
    "thinking": "<think><tool_call>{</think>",
    "marks": "[TOOL_CALLS]",
    "headers": "<｜tool▁call▁begin｜>w[TOOL_CALLS]w",
    "named objects": '[TOOL_CALLS]w[ARGS]{"q": [<｜tool▁call▁begin｜>w {"q": [',
    "calls": "[TOOL_CALLS]w[ARGS]{}<｜tool▁call▁begin｜>w {}<｜tool▁call▁end｜>",
    "objects": '{"name": "w", "parameters": {"q": "\\u0061"}}; ',
    "nested values": '","b":{},"a":"',
    "brackets": "[",
    "escapes": '\\"',
    "digits": "1",
    "blanks": " ",
}
START = {
    "chatml": '<tool_call>{"a":"',
    "llama3.1": '{"a":"',
    "mistral-v3": '[{"a":"',
    "mistral-v11": '[TOOL_CALLS]w[ARGS]{"a":"',
    "deepseek-r1": '<｜tool▁call▁begin｜>w {"a":"',
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_takes_linear_time(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    for module in (json_scanner, whole_text, wrapped, calls):
        count_visits(monkeypatch, module)

    def visits(size: int, start: str, chunk: int) -> int:
        text = (start + HOSTILE[kind] * (size // len(HOSTILE[kind])))[:size]
        parser = format_named(name).parser(Turn(TOOLS))
        count_visits(monkeypatch, parser)
        CountingPattern.visited = 0
        for at in range(0, size, chunk):
            parser.feed(text[at : at + chunk])
        parser.finish()
        return CountingPattern.visited

    for size, chunk, start in ((100_000, 100_000, ""), (20_000, 7, START[name])):
        whole, half = visits(size, start, chunk), visits(size // 2, start, chunk)
        assert whole <= 2.5 * half + 100
        assert whole <= 10 * size
