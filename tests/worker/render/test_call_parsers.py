"""Parsers against a slow reader: the same calls for any text, in any chunks, in linear time."""

import json
import re
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_worker.render.formats import (
    ParsedText,
    Turn,
    WrittenCall,
    calls,
    format_of,
    hermes,
    json_scanner,
    whole_text,
)
from slow_calls import slow_parse

FAMILIES = ("chatml", "llama3", "mistral")
TOOLS = frozenset({"grep", "w"})
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>")
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
    "llama3": "{}; ".format,
    "mistral": "[TOOL_CALLS] [{}]".format,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


def in_chunks(family: str, text: str, cuts: list[int], turn: Turn) -> ParsedText:
    parser = format_of(family).parser(turn)
    places = sorted({min(cut, len(text)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        parser.feed(text[start:end])
    return parser.finish()


def values(parsed: ParsedText) -> tuple[str, list[tuple[str, Any]]]:
    return parsed.content, [(call.name, json.loads(call.arguments_json)) for call in parsed.calls]


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, wrapped=st.lists(st.sampled_from(CALLS), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_as_the_slow_reader_reads_it(family: str, text: str, wrapped: list[str]) -> None:
    whole = text + "".join(map(WRAPPED[family], wrapped))
    parsed = format_of(family).parse(whole, Turn(TOOLS))
    assert values(parsed) == slow_parse(family, whole, TOOLS)
    assert all(call.arguments_json == "{}" or call.arguments_json in whole for call in parsed.calls)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    wrapped=st.lists(st.sampled_from(CALLS) | fragments, max_size=4),
    text=texts,
    cuts=st.lists(st.integers(0, 200), max_size=8),
    constrained=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_chunks_give_what_the_whole_text_gives(
    family: str, wrapped: list[str], text: str, cuts: list[int], constrained: bool
) -> None:
    whole = "".join(map(WRAPPED[family], wrapped)) + text
    for turn in (Turn(TOOLS, constrained=constrained), Turn(TOOLS, in_thinking=True)):
        expected = format_of(family).parse(whole, turn)
        assert in_chunks(family, whole, cuts, turn) == expected
        assert in_chunks(family, whole, list(range(len(whole))), turn) == expected


@pytest.mark.parametrize("family", FAMILIES)
@given(
    given_calls=st.lists(st.tuples(st.text(min_size=1, max_size=8), arguments), min_size=1, max_size=3),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    cuts=st.lists(st.integers(0, 300), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_a_call_that_is_written_is_read_back_as_it_was(
    family: str, given_calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, indent: int | None, cuts: list[int]
) -> None:
    written = tuple(
        WrittenCall(name, json.dumps(values, ensure_ascii=ascii_only, indent=indent)) for name, values in given_calls
    )
    turn = Turn({name for name, _ in given_calls})
    assert in_chunks(family, format_of(family).write(written), cuts, turn) == ParsedText("", written)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.text(max_size=200) | st.text(alphabet='<>/tool_cahink{}[]",:\\ud8 1e-', max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_raises(family: str, text: str) -> None:
    parsed = format_of(family).parse(text, Turn(TOOLS))
    assert parsed.content == text or parsed.calls


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

    def search(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._count(self._pattern.search(text, at), at, len(text) - at)

    def fullmatch(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._count(self._pattern.fullmatch(text, at), at, min(12, len(text) - at))


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


def count_visits(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(module, name, CountingPattern(value))
        elif isinstance(value, json.JSONDecoder):
            monkeypatch.setattr(module, name, CountingDecoder(value))


HOSTILE = {
    "openers": "<tool_call>",
    "broken objects": '<tool_call>{"',
    "open strings": '<tool_call>{"a":"',
    "unclosed calls": '<tool_call>{"name": "w"}',
    "calls of nobody": '<tool_call>{"name": "x", "arguments": {}}</tool_call>',
    "beginnings of marks": "<tool_cal",
    "thinking": "<think><tool_call>{</think>",
    "objects": '{"name": "w", "parameters": {"q": "\\u0061"}}; ',
    "brackets": "[",
    "escapes": '\\"',
    "digits": "1",
    "blanks": " ",
}
START = {"chatml": '<tool_call>{"a":"', "llama3": '{"a":"', "mistral": '[{"a":"'}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_megabyte_of_hostile_text_takes_linear_time(monkeypatch: pytest.MonkeyPatch, family: str, kind: str) -> None:
    for module in (json_scanner, hermes, whole_text, calls):
        count_visits(monkeypatch, module)

    def visits(size: int, start: str, chunk: int) -> int:
        text = (start + HOSTILE[kind] * (size // len(HOSTILE[kind])))[:size]
        parser = format_of(family).parser(Turn(TOOLS))
        CountingPattern.visited = 0
        for at in range(0, size, chunk):
            parser.feed(text[at : at + chunk])
        parser.finish()
        return CountingPattern.visited

    for size, chunk, start in ((1_000_000, 1_000_000, ""), (100_000, 7, START[family])):
        whole, half = visits(size, start, chunk), visits(size // 2, start, chunk)
        assert whole <= 2.5 * half + 100
        assert whole <= 10 * size
