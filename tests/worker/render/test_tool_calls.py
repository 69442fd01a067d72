"""Calls of the session's tools are read from the text of a turn; anything else stays text, and a warning says why."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.

import json
import re
from dataclasses import replace

import pytest

import family_models
from roost_worker.render.formats import FORMATS, Turn, WrittenCall, format_named
from roost_worker.render.messages import Message, ToolCall, template_message
from roost_worker.render.probing import text_of
from roost_worker.render.renderer import Renderer
from roost_worker.render.sandbox import ChatTemplate

NAMES = [known.name for known in FORMATS]
TURN = Turn(frozenset({"grep", "w"}))
GREP = WrittenCall("grep", '{"q": "}</x>"}')
JSON = '{"name": "grep", "arguments": {"q": "}</x>"}}'


def wrapped(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


def deepseek(text: str) -> str:
    return f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{text}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        ("chatml", wrapped(JSON), ""),
        ("hermes", wrapped(JSON), ""),
        ("qwen3", f"Let me look.\n<tool_call>{JSON}</tool_call>\n", "Let me look."),
        ("chatml", f"<tool_call>[\n{JSON}\n]</tool_call>", ""),
        ("chatml", wrapped(JSON.replace("arguments", "parameters")), ""),
        ("smollm2", f"<tool_call>[\n{JSON}\n]</tool_call>", ""),
        ("smollm3", wrapped(JSON), ""),
        ("llama3", f"Sure. {wrapped(JSON)}", "Sure."),
        ("llama3.1", JSON, ""),
        ("llama3.1", '{"name": "grep", "parameters": {"q": "}</x>"}}', ""),
        ("llama3.1", f"<|python_tag|>{JSON}", ""),
        ("mistral-v3", '[TOOL_CALLS] [{"name": "grep", "arguments": {"q": "}</x>"}, "id": "abc123xyz"}]', ""),
        ("mistral-v3", f"[{JSON}]", ""),
        ("mistral-v7", f"Let me look.[TOOL_CALLS] [{JSON}]", "Let me look."),
        ("mistral-v3", f"[1] says so. [TOOL_CALLS] [{JSON}]", "[1] says so."),
        ("mistral-v11", 'Now:[TOOL_CALLS]grep[CALL_ID]abc123xyz[ARGS]{"q": "}</x>"}', "Now:"),
        ("mistral-v13", '[TOOL_CALLS]grep[ARGS]{"q": "}</x>"}', ""),
        ("deepseek-r1", deepseek('function<｜tool▁sep｜>grep\n```json\n{"q": "}</x>"}\n```'), ""),
        ("deepseek-r1", deepseek('grep<｜tool▁sep｜>{"q": "}</x>"}'), ""),
    ],
)
def test_a_call_is_read(name: str, text: str, content: str) -> None:
    parsed = format_named(name).parse(text, TURN)
    calls = tuple(replace(call, id="") for call in parsed.calls)
    assert (parsed.content, calls, parsed.warnings) == (content, (GREP,), ())


NOT_JSON = "is not a JSON value"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
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
        ("llama3.1", '{"name": "rm", "parameters": {}}', "the session has no tool 'rm'"),
        ("llama3.1", '{"name": "grep", "parameters": {}} and more', "other text stands beside it"),
        ("llama3.1", '<|python_tag|>{"name": "grep", "parameters": {"q": NaN}}', f"NaN {NOT_JSON}"),
        ("mistral-v3", '[{"name": "grep"', "the text ends within it"),
        ("mistral-v3", f"[TOOL_CALLS] [{JSON}] and more", "other text stands beside it"),
        ("mistral-v3", f"Hm.[TOOL_CALLS] [{JSON}", "the text ends within it"),
        ("mistral-v11", '[TOOL_CALLS]rm[ARGS]{"q": 1}', "the session has no tool 'rm'"),
        ("mistral-v11", "[TOOL_CALLS] are calls of tools {", "no name and JSON object follow [TOOL_CALLS]"),
        ("mistral-v11", "[TOOL_CALLS]" + "grep" * 999, "no name and JSON object follow [TOOL_CALLS]"),
        ("mistral-v13", '[TOOL_CALLS]grep[ARGS]{"q": NaN}', f"NaN {NOT_JSON}"),
        ("mistral-v13", "[TOOL_CALLS]grep[ARGS]", "the text ends within it"),
        ("deepseek-r1", deepseek("grep\n```json\n{}\n```."), "<｜tool▁call▁end｜> does not follow its JSON"),
    ],
)
def test_what_is_not_a_call_stays_text_and_says_why(name: str, text: str, reason: str) -> None:
    parsed = format_named(name).parse(text, TURN)
    assert (parsed.content, parsed.calls) == (text, ())
    assert len(parsed.warnings) == 1
    assert reason in parsed.warnings[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", '{"name": "grep", "parameters": {}}'),
        ("chatml", "a < b <tool <think"),
        ("llama3.1", 'Sure: {"name": "grep", "parameters": {}}'),
        ("llama3.1", '{"name": 7, "parameters": {}}'),
        ("llama3.1", '{"name": "grep", "age": 3}'),
        ("llama3.1", '{"name": "Alice", "age": 3}'),
        ("llama3.1", "{braces}"),
        ("llama3.1", "7"),
        ("mistral-v3", '[{"name": "Alice", "age": 3}]'),
        ("mistral-v3", "[1, 2]"),
        ("mistral-v3", "[]"),
        ("mistral-v3", "plain"),
        ("hermes", ""),
    ],
)
def test_ordinary_text_stays_as_it_is_without_a_warning(name: str, text: str) -> None:
    parsed = format_named(name).parse(text, TURN)
    assert (parsed.content, parsed.calls, parsed.warnings) == (text, (), ())


@pytest.mark.parametrize("name", NAMES)
def test_calls_of_other_names_stay_text_beside_the_sessions_own(name: str) -> None:
    names = ("grep", "rm", "w")
    text = format_named(name).calls.write([WrittenCall(name, '{"n": 1.10}') for name in names])
    parsed = format_named(name).parse(text, TURN)
    assert [(call.name, call.arguments_json) for call in parsed.calls] == [
        ("grep", '{"n": 1.10}'),
        ("w", '{"n": 1.10}'),
    ]
    assert "rm" in parsed.content
    assert "grep" not in parsed.content
    assert parsed.warnings == ("what looks like a tool call stays text: the session has no tool 'rm'",)


def test_a_malformed_call_between_good_ones_stays_text() -> None:
    good = '<tool_call>{"name": "w", "arguments": {}}</tool_call>'
    parsed = format_named("chatml").parse(f"{good}<tool_call>{{bad}}</tool_call>{good}", TURN)
    assert parsed.content == "<tool_call>{bad}</tool_call>"
    assert [call.name for call in parsed.calls] == ["w", "w"]


def test_a_closing_mark_in_a_string_is_text() -> None:
    parsed = format_named("chatml").parse(wrapped('{"name": "w", "arguments": {"t": "see }</tool_call> here"}}'), TURN)
    assert parsed.calls == (WrittenCall("w", '{"t": "see }</tool_call> here"}'),)


@pytest.mark.parametrize("number", ["1.10", "9e999", "-0", "1E+2", "123456789012345678901234567890", "9" * 5000])
def test_numbers_keep_their_digits(number: str) -> None:
    parsed = format_named("chatml").parse(wrapped(f'{{"name": "w", "arguments": {{"n":{number} }}}}'), TURN)
    assert parsed.calls == (WrittenCall("w", f'{{"n":{number} }}'),)


@pytest.mark.parametrize("end", ["", "\n", "</tool", "\n</tool_call"])
def test_a_call_that_lacks_only_its_closing_mark_is_whole(end: str) -> None:
    parsed = format_named("chatml").parse(f"<tool_call>{JSON}{end}", TURN)
    assert (parsed.content, parsed.calls, parsed.warnings) == ("", (GREP,), ())


@pytest.mark.parametrize("name", NAMES)
def test_a_constrained_call_is_whole_once_its_arguments_are(name: str) -> None:
    text = format_named(name).calls.write([WrittenCall("w", '{"t": {"q": "}"}}')])
    whole = text.index('"}}') + 3
    for end in range(len(text) + 1):
        parsed = format_named(name).parse(text[:end], Turn({"w"}, constrained=True))
        assert [call.arguments_json for call in parsed.calls] == ['{"t": {"q": "}"}}'] * (end >= whole)


@pytest.mark.parametrize("name", ["llama3.1", "mistral-v3"])
def test_free_text_may_go_on_after_the_arguments(name: str) -> None:
    text = format_named(name).calls.write([WrittenCall("w", "{}")])
    assert format_named(name).parse(text[:-1], TURN).calls == ()


THINKING = [
    ("chatml", f"<think>\nno {wrapped(JSON)}\n</think>\nHi.", "Hi.", f"no {wrapped(JSON)}"),
    ("qwen3", f"<think>no {wrapped(JSON)}", "", f"no {wrapped(JSON)}"),
    ("qwen3", "<think>\n\n</think>\n\nHi.", "Hi.", ""),
    ("smollm3", "<think>a</think>b<think>c</think>d", "b<think>c</think>d", "a"),
    ("chatml", "\n <think>a</think>b", "b", "a"),
    ("mistral-v13", '[THINK][TOOL_CALLS]grep[ARGS]{"q": 1}[/THINK]Hi.', "Hi.", '[TOOL_CALLS]grep[ARGS]{"q": 1}'),
    ("deepseek-r1", f"<think>{deepseek('grep {}')}</think>Hi.", "Hi.", deepseek("grep {}")),
]


@pytest.mark.parametrize("tools", [TURN.tools, frozenset()])
@pytest.mark.parametrize(("name", "text", "content", "reasoning"), THINKING)
def test_thinking_is_neither_content_nor_calls(
    name: str, text: str, content: str, reasoning: str, tools: frozenset[str]
) -> None:
    parsed = format_named(name).parse(text, Turn(tools, thinking_tokens=name != "chatml"))
    assert (parsed.content, parsed.reasoning, parsed.calls) == (content, reasoning, ())


@pytest.mark.parametrize("tools", [TURN.tools, frozenset()])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", "Use the `<think>` tag to open it, `</think>` to close it."),
        ("llama3", "`<think>` opens it."),
        ("hermes", "a</think>b"),
        ("qwen3", "Use the `<think>` tag."),
        ("mistral-v13", "It writes [THINK]thoughts[/THINK]."),
        ("deepseek-r1", "R1 begins with <think>."),
    ],
)
def test_an_answer_about_thinking_is_content(name: str, text: str, tokens: bool, tools: frozenset[str]) -> None:
    parsed = format_named(name).parse(text, Turn(tools, thinking_tokens=tokens))
    assert (parsed.content, parsed.reasoning) == (text, "")


def test_a_call_after_a_mark_of_thinking_within_the_answer_is_a_call() -> None:
    parsed = format_named("qwen3").parse(f"`<think>`: {wrapped(JSON)}", Turn({"grep"}, thinking_tokens=True))
    assert (parsed.content, parsed.reasoning, parsed.calls) == ("`<think>`:", "", (GREP,))


@pytest.mark.parametrize("tools", [TURN.tools, frozenset()])
def test_thinking_that_is_not_closed_is_text_of_a_model_without_tokens_for_it(tools: frozenset[str]) -> None:
    text = "<think> is the tag that opens it."
    parsed = format_named("chatml").parse(text, Turn(tools))
    assert (parsed.content, parsed.reasoning) == (text, "")
    parsed = format_named("chatml").parse("It goes on", Turn(tools, in_thinking=True))
    assert (parsed.content, parsed.reasoning) == ("", "It goes on")


@pytest.mark.parametrize(("name", "tokens"), [("qwen3", True), ("smollm2", False), ("llama3", False)])
def test_a_vocabulary_may_have_tokens_for_thinking(name: str, tokens: bool) -> None:
    assert family_models.renderer(name).thinking_tokens is tokens


def test_output_may_begin_within_thinking() -> None:
    parsed = format_named("qwen3").parse(f"{wrapped(JSON)}</think>", Turn({"grep"}, in_thinking=True))
    assert (parsed.content, parsed.reasoning, parsed.calls) == ("", wrapped(JSON), ())
    parsed = format_named("qwen3").parse(f"Hm.</think>\n{wrapped(JSON)}", Turn({"grep"}, in_thinking=True))
    assert (parsed.content, parsed.reasoning, parsed.calls) == ("", "Hm.", (GREP,))


@pytest.mark.parametrize("text", ['{"q": "<think>a</think>"}', " 1 "])
def test_json_that_a_grammar_allowed_is_content_as_it_is(text: str) -> None:
    parsed = format_named("qwen3").parse(text, Turn(frozenset(), in_thinking=True, constrained=True))
    assert (parsed.content, parsed.reasoning, parsed.calls) == (text, "", ())


@pytest.mark.parametrize("opener", ["<think>\n", "<think>\n\n</think>\n\n", ""])
def test_a_prompt_that_opens_the_thinking_is_noticed(opener: str) -> None:
    generation_prompt = "{{ '<|im_start|>assistant\n"
    template = family_models.template("smollm2").replace(generation_prompt, generation_prompt + opener)
    vocabulary = family_models.renderer("smollm2").vocabulary
    renderer = Renderer(family_models.description("smollm2", template), vocabulary, len(vocabulary.token_bytes))
    assert renderer.own_template_refused == ""
    assert renderer.opens_thinking([Message("user", "hi")], ()) is (opener == "<think>\n")


def test_warnings_are_few() -> None:
    parsed = format_named("chatml").parse("<tool_call>no " * 1000, TURN)
    assert len(parsed.warnings) == 9
    assert parsed.warnings[-1] == "992 more like these"


@pytest.mark.parametrize("name", [name for name in NAMES if format_named(name).turns])
def test_a_call_that_the_built_in_template_shows_is_read_back(name: str) -> None:
    shown_format = format_named(name)
    call = ToolCall("abc123xyz", "grep", json.dumps({"q": ["\n", "é"], "n": 1.5}))
    template = ChatTemplate(shown_format.turns, "", "<end>")
    user = template_message(Message("user", "hello"))
    prompt = text_of(template.render([user], None, generation_prompt=True)).removesuffix("<think>\n")
    for content in ("", "Let me look."):
        turn = template_message(Message("assistant", content, (call,)))
        shown = text_of(template.render([user, turn], None, generation_prompt=False)).removeprefix(prompt)
        shown = shown.removeprefix(" ")  # as a detokenizer does where blanks follow the marks
        parsed = shown_format.parse(re.split(r"<end>|<\|im_end\|>|<\|eot_id\|>", shown)[0], TURN)
        if content and name == "llama3.1":  # its calls are recognised when the whole text is calls
            continue
        assert parsed.content == content
        assert [(call.name, json.loads(call.arguments_json)) for call in parsed.calls] == [
            ("grep", json.loads(call.arguments_json))
        ]
        if shown_format.call_ids.written and name != "mistral-v13":
            assert parsed.calls[0].id == call.id


@pytest.mark.parametrize("name", NAMES)
def test_call_ids_are_unique_and_short(name: str) -> None:
    seeds = [bytes([number]) for number in range(250)]
    ids = [format_named(name).call_ids.of_call(seed, number) for seed in seeds for number in range(4)]
    assert ids == [format_named(name).call_ids.of_call(seed, number) for seed in seeds for number in range(4)]
    assert len(set(ids)) == 1000
    pattern = r"[A-Za-z0-9]{9}" if name.startswith("mistral") else r"call_[0-9a-f]{32}"
    assert all(re.fullmatch(pattern, call_id) for call_id in ids)
