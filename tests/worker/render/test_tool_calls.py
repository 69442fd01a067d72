"""Calls of the session's tools are read from the text of a turn; anything else stays text, and a warning says why."""

import json
import re

import pytest

import family_models
from roost_worker.render.formats import Turn, WrittenCall, format_of
from roost_worker.render.messages import Message, ToolCall, new_call_id, template_message
from roost_worker.render.probing import text_of
from roost_worker.render.renderer import Renderer
from roost_worker.render.sandbox import ChatTemplate
from roost_worker.render.templates import BUILT_IN

TURN = Turn(frozenset({"grep", "w"}))
GREP = WrittenCall("grep", '{"q": "}</x>"}')
JSON = '{"name": "grep", "arguments": {"q": "}</x>"}}'


def wrapped(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


@pytest.mark.parametrize(
    ("family", "text", "content"),
    [
        ("chatml", wrapped(JSON), ""),
        ("", wrapped(JSON), ""),
        ("qwen3", f"Let me look.\n<tool_call>{JSON}</tool_call>\n", "Let me look."),
        ("chatml", f"<tool_call>[\n{JSON}\n]</tool_call>", ""),
        ("chatml", wrapped(JSON.replace("arguments", "parameters")), ""),
        ("chatml", f"<think>First {wrapped('{}')}.</think>{wrapped(JSON)}", f"<think>First {wrapped('{}')}.</think>"),
        ("llama3", '{"name": "grep", "parameters": {"q": "}</x>"}}', ""),
        ("llama3", f"<|python_tag|>{JSON}", ""),
        ("mistral", '[TOOL_CALLS] [{"name": "grep", "arguments": {"q": "}</x>"}, "id": "abc123xyz"}]', ""),
        ("mistral", f"[{JSON}]", ""),
    ],
)
def test_a_call_is_read(family: str, text: str, content: str) -> None:
    parsed = format_of(family).parse(text, TURN)
    assert (parsed.content, parsed.calls, parsed.warnings) == (content, (GREP,), ())


NOT_JSON = "is not a JSON value"


@pytest.mark.parametrize(
    ("family", "text", "reason"),
    [
        ("chatml", '<tool_call>\n{"name": "grep", "arguments": {"q": 1}', "the text ends within it"),
        ("chatml", "<tool_call>\nnot json\n</tool_call>", "no JSON object follows <tool_call>"),
        ("chatml", wrapped('{"arguments": {}}'), "it does not name a tool and its arguments"),
        ("chatml", wrapped('{"name": "grep", "q": 1}'), "it does not name a tool and its arguments"),
        ("chatml", wrapped('{"name": "grep", "arguments": "text"}'), "the arguments of 'grep' are not a JSON object"),
        ("chatml", wrapped('{"name": "grep", "arguments": null}'), "the arguments of 'grep' are not a JSON object"),
        ("chatml", wrapped('{"name": "grep", "name": "w"}'), "the call of 'w' holds a key twice"),
        ("chatml", wrapped('{"name": "rm", "arguments": {}}'), "the session has no tool 'rm'"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": NaN}}'), f"NaN {NOT_JSON}"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": -Infinity}}'), f"-Infinity {NOT_JSON}"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": 01}}'), f"01 {NOT_JSON}"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": "\\ud83d"}}'), "half of a surrogate pair"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": "\\ude00\\ud83d"}}'), "half of a surrogate pair"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": "a\nb"}}'), "'\\n' stands in a string"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": 1,}}'), "'}' stands where a key must be"),
        ("chatml", wrapped('{"name": "grep", "arguments": {"q": ' + "[" * 999), "deeper than 256 levels"),
        ("chatml", wrapped(JSON + "}"), "</tool_call> does not follow its JSON"),
        ("llama3", '{"name": "rm", "parameters": {}}', "the session has no tool 'rm'"),
        ("llama3", '{"name": "grep", "parameters": {}} and more', "other text stands beside it"),
        ("llama3", '<|python_tag|>{"name": "grep", "parameters": {"q": NaN}}', f"NaN {NOT_JSON}"),
        ("mistral", '[{"name": "grep"', "the text ends within it"),
        ("mistral", f"[TOOL_CALLS] [{JSON}] and more", "other text stands beside it"),
    ],
)
def test_what_is_not_a_call_stays_text_and_says_why(family: str, text: str, reason: str) -> None:
    parsed = format_of(family).parse(text, TURN)
    assert (parsed.content, parsed.calls) == (text, ())
    assert len(parsed.warnings) == 1
    assert reason in parsed.warnings[0]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("chatml", '{"name": "grep", "parameters": {}}'),
        ("chatml", f"<think>no {wrapped(JSON)}\n</think>\nHi."),
        ("chatml", f"<think>no {wrapped(JSON)}"),
        ("chatml", "a < b <tool <think"),
        ("llama3", 'Sure: {"name": "grep", "parameters": {}}'),
        ("llama3", '{"name": 7, "parameters": {}}'),
        ("llama3", '{"name": "grep", "age": 3}'),
        ("llama3", '{"name": "Alice", "age": 3}'),
        ("llama3", "{braces}"),
        ("llama3", "7"),
        ("mistral", '[{"name": "Alice", "age": 3}]'),
        ("mistral", "[1, 2]"),
        ("mistral", "[]"),
        ("mistral", "plain"),
        ("", ""),
    ],
)
def test_ordinary_text_stays_as_it_is_without_a_warning(family: str, text: str) -> None:
    parsed = format_of(family).parse(text, TURN)
    assert (parsed.content, parsed.calls, parsed.warnings) == (text, (), ())


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral"])
def test_calls_of_other_names_stay_text_beside_the_sessions_own(family: str) -> None:
    names = ("grep", "rm", "w")
    text = format_of(family).write([WrittenCall(name, '{"n": 1.10}') for name in names])
    parsed = format_of(family).parse(text, TURN)
    assert [(call.name, call.arguments_json) for call in parsed.calls] == [
        ("grep", '{"n": 1.10}'),
        ("w", '{"n": 1.10}'),
    ]
    assert "rm" in parsed.content
    assert "grep" not in parsed.content
    assert parsed.warnings == ("what looks like a tool call stays text: the session has no tool 'rm'",)


def test_a_malformed_call_between_good_ones_stays_text() -> None:
    good = '<tool_call>{"name": "w", "arguments": {}}</tool_call>'
    parsed = format_of("chatml").parse(f"{good}<tool_call>{{bad}}</tool_call>{good}", TURN)
    assert parsed.content == "<tool_call>{bad}</tool_call>"
    assert [call.name for call in parsed.calls] == ["w", "w"]


def test_a_closing_mark_in_a_string_is_text() -> None:
    parsed = format_of("chatml").parse(wrapped('{"name": "w", "arguments": {"t": "see }</tool_call> here"}}'), TURN)
    assert parsed.calls == (WrittenCall("w", '{"t": "see }</tool_call> here"}'),)


@pytest.mark.parametrize("number", ["1.10", "9e999", "-0", "1E+2", "123456789012345678901234567890", "9" * 5000])
def test_numbers_keep_their_digits(number: str) -> None:
    parsed = format_of("chatml").parse(wrapped(f'{{"name": "w", "arguments": {{"n":{number} }}}}'), TURN)
    assert parsed.calls == (WrittenCall("w", f'{{"n":{number} }}'),)


@pytest.mark.parametrize("end", ["", "\n", "</tool", "\n</tool_call"])
def test_a_call_that_lacks_only_its_closing_mark_is_whole(end: str) -> None:
    parsed = format_of("chatml").parse(f"<tool_call>{JSON}{end}", TURN)
    assert (parsed.content, parsed.calls, parsed.warnings) == ("", (GREP,), ())


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral"])
def test_a_constrained_call_is_whole_once_its_arguments_are(family: str) -> None:
    text = format_of(family).write([WrittenCall("w", '{"t": {"q": "}"}}')])
    whole = text.index('"}}') + 3
    for end in range(len(text) + 1):
        parsed = format_of(family).parse(text[:end], Turn({"w"}, constrained=True))
        assert [call.arguments_json for call in parsed.calls] == ['{"t": {"q": "}"}}'] * (end >= whole)


@pytest.mark.parametrize("family", ["llama3", "mistral"])
def test_free_text_may_go_on_after_the_arguments(family: str) -> None:
    text = format_of(family).write([WrittenCall("w", "{}")])
    assert format_of(family).parse(text[:-1], TURN).calls == ()


def test_output_may_begin_within_thinking() -> None:
    parsed = format_of("qwen3").parse(f"{wrapped(JSON)}</think>", Turn({"grep"}, in_thinking=True))
    assert parsed.calls == ()
    parsed = format_of("qwen3").parse(f"Hm.</think>\n{wrapped(JSON)}", Turn({"grep"}, in_thinking=True))
    assert (parsed.content, parsed.calls) == ("Hm.</think>", (GREP,))


@pytest.mark.parametrize("opener", ["<think>\n", "<think>\n\n</think>\n\n", ""])
def test_a_prompt_that_opens_the_thinking_is_noticed(opener: str) -> None:
    generation_prompt = "{{ '<|im_start|>assistant\n"
    template = family_models.template("smollm2").replace(generation_prompt, generation_prompt + opener)
    vocabulary = family_models.renderer("smollm2").vocabulary
    renderer = Renderer(family_models.description("smollm2", template), vocabulary, len(vocabulary.token_bytes))
    assert renderer.own_template_refused == ""
    assert renderer.opens_thinking is (opener == "<think>\n")


def test_warnings_are_few() -> None:
    parsed = format_of("chatml").parse("<tool_call>no " * 1000, TURN)
    assert len(parsed.warnings) == 9
    assert parsed.warnings[-1] == "992 more like these"


@pytest.mark.parametrize("family", BUILT_IN)
def test_a_call_that_the_built_in_template_shows_is_read_back(family: str) -> None:
    call = ToolCall("call_1", "grep", json.dumps({"q": ["\n", "é"], "n": 1.5}))
    template = ChatTemplate(BUILT_IN[family], "", "<end>")
    user = template_message(Message("user", "hello"))
    prompt = text_of(template.render([user], None, generation_prompt=True))
    turn = template_message(Message("assistant", "", (call,)))
    shown = text_of(template.render([user, turn], None, generation_prompt=False)).removeprefix(prompt)
    parsed = format_of(family).parse(re.split(r"<end>|<\|im_end\|>|<\|eot_id\|>", shown)[0], TURN)
    assert [(call.name, json.loads(call.arguments_json)) for call in parsed.calls] == [
        ("grep", json.loads(call.arguments_json))
    ]


def test_call_ids_are_unique_and_short() -> None:
    ids = {new_call_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(call_id.startswith("call_") and len(call_id) == 37 for call_id in ids)
