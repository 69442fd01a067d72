"""Tool calls are found in the family's own wrapper; what is no well-formed call stays text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_worker.render.messages import ToolCall
from roost_worker.render.toolcalls import parse, write_calls

FAMILIES = ("chatml", "qwen3", "llama3", "mistral", "")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("family", "text", "content"),
    [
        ("chatml", '<tool_call>\n{"name": "grep", "arguments": {"q": "}</x>"}}\n</tool_call>', ""),
        ("qwen3", 'Let me look.\n<tool_call>{"name":"grep","arguments":{"q":"}</x>"}}</tool_call>\n', "Let me look."),
        ("llama3", '{"name": "grep", "parameters": {"q": "}</x>"}}', ""),
        ("llama3", '<|python_tag|>{"name": "grep", "parameters": {"q": "}</x>"}}', ""),
        ("mistral", '[TOOL_CALLS] [{"name": "grep", "arguments": {"q": "}</x>"}, "id": "abc123xyz"}]', ""),
        ("mistral", '[{"name": "grep", "arguments": {"q": "}</x>"}}]', ""),
    ],
)
def test_a_call_is_found(family: str, text: str, content: str) -> None:
    assert parse(text, family) == (content, (ToolCall("call_0", "grep", '{"q":"}</x>"}'),))


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("chatml", '<tool_call>\n{"name": "grep", "arguments": {"q": 1}}'),
        ("chatml", "<tool_call>\nnot json\n</tool_call>"),
        ("chatml", '<tool_call>{"arguments": {}}</tool_call>'),
        ("chatml", '<tool_call>{"name": "grep", "arguments": "text"}</tool_call>'),
        ("chatml", '{"name": "grep", "parameters": {}}'),
        ("llama3", 'Sure: {"name": "grep", "parameters": {}}'),
        ("llama3", '{"name": "grep", "parameters": {}} and more'),
        ("llama3", '{"name": 7, "parameters": {}}'),
        ("llama3", "7"),
        ("mistral", '[{"name": "grep"'),
        ("mistral", "[1, 2]"),
        ("mistral", "[]"),
        ("mistral", "plain"),
        ("", ""),
    ],
)
def test_what_is_no_call_stays_text(family: str, text: str) -> None:
    assert parse(text, family) == (text, ())


def test_a_malformed_call_between_good_ones_stays_text() -> None:
    good = '<tool_call>{"name": "a", "arguments": {}}</tool_call>'
    text, calls = parse(f"{good}<tool_call>{{bad}}</tool_call>{good}", "chatml")
    assert text == "<tool_call>{bad}</tool_call>"
    assert [(call.id, call.name) for call in calls] == [("call_0", "a"), ("call_1", "a")]


@pytest.mark.parametrize("family", FAMILIES)
@given(
    calls=st.lists(
        st.tuples(
            st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.dictionaries(st.text(max_size=5), json_values, max_size=3)
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=50, deadline=None)
def test_calls_that_are_written_are_read_back(family: str, calls: list[tuple[str, dict[str, object]]]) -> None:
    import json

    given_calls = [
        ToolCall(f"call_{index}", name, json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))
        for index, (name, arguments) in enumerate(calls)
    ]
    content, found = parse(write_calls(given_calls, family), family)
    assert content == ""
    assert list(found) == given_calls
