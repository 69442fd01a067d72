"""A model's format follows from its vocabulary and from what its own template writes, whatever its family's name."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.

import json
from pathlib import Path

import pytest

import family_models
from roost_worker.convert.tokenization import read_template, read_tool_template
from roost_worker.render.choice import choose_format
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import CHATML, FORMATS, TurnFormat, format_named, llama3
from roost_worker.render.messages import Message, Tool
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

GREP = Tool("grep", "Search files.", '{"type": "object"}')
USER = [Message("user", "hello")]
IGNORES_TOOLS = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def renderer(chat_template: str, tokens: tuple[str, ...], eos: str, bos: str = "", **more: str) -> Renderer:
    vocabulary = Vocabulary(family_models.build_tokenizer(tokens, ()))
    ends = tuple(vocabulary.control[token] for token in (eos, "<|eom_id|>") if token in tokens)
    description = TemplateDescription(chat_template, bos, eos, ends, **more)
    return Renderer(description, vocabulary, len(vocabulary.token_bytes))


def prompt(model: Renderer, tools: tuple[Tool, ...] = ()) -> str:
    table = [*model.vocabulary.token_bytes]
    for text, index in model.vocabulary.control.items():
        table[index] = text.encode()
    return b"".join(table[index] for index in model.render_step(messages=USER, tools=tools)).decode()


@pytest.mark.parametrize("known", [known for known in FORMATS if known.turns], ids=lambda known: known.name)
def test_a_template_that_writes_a_formats_turns_has_that_format(known: TurnFormat) -> None:
    tokens = {*known.tokens, *known.signs, *known.turn_ends, *(known.marks if known is not CHATML else ())}
    assert choose_format(known.turns, "", known.turn_ends[0], tokens) is known


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (("<|im_start|>", "<|im_end|>"), "chatml"),
        (("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"), "qwen3"),
        (("<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"), "smollm2"),
        (("<|im_start|>", "<|im_end|>", *LLAMA3_TOKENS, "<|begin_of_text|>", "<think>", "</think>"), "smollm3"),
        (LLAMA3_TOKENS, "llama3"),
        ((*LLAMA3_TOKENS, "<|python_tag|>", "<|eom_id|>"), "llama3.1"),
        (("<｜User｜>", "<｜Assistant｜>", "<think>"), "deepseek-r1"),
        (("<s>", "</s>"), "hermes"),
    ],
)
def test_without_a_template_the_tokens_decide(tokens: tuple[str, ...], name: str) -> None:
    assert choose_format("", "", "", tokens).name == name


def test_a_template_of_other_tokens_than_the_vocabularys_first_format_decides() -> None:
    tokens = ("<|im_start|>", "<|im_end|>", *LLAMA3_TOKENS, "<|python_tag|>", "<|eom_id|>")
    assert choose_format(CHATML.turns, "", "<|im_end|>", tokens).name == "chatml"
    assert choose_format(IGNORES_TOOLS, "", "<|eot_id|>", tokens).name == "llama3.1"


def test_calls_in_another_order_than_a_formats_still_show_which_parser_reads_them() -> None:
    calls = (
        "{% for call in message.tool_calls %}"
        '<tool_call>{"arguments": {{ call.function.arguments | tojson }}, "name": "{{ call.function.name }}"}'
        "</tool_call>"
        "{% endfor %}"
    )
    tokens = (*LLAMA3_TOKENS, "<|python_tag|>", "<|eom_id|>")
    assert choose_format(llama3.turns(tool_prompt="", calls=calls), "", "<|eot_id|>", tokens).name == "llama3"


def test_a_template_that_writes_the_date_still_shows_its_format() -> None:
    known = format_named("mistral-v7-tekken")
    tokens = {*known.tokens, *known.signs}
    assert choose_format("{% set today = strftime_now('%d') %}" + known.turns, "", "</s>", tokens) is known


def test_llama3_is_asked_for_the_calls_that_are_parsed() -> None:
    model = renderer(IGNORES_TOOLS, LLAMA3_TOKENS, "<|eot_id|>")
    assert (model.format.name, model.own_template_refused) == ("llama3", "")
    assert '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}' in prompt(model, (GREP,))
    assert model.format.calls.before_arguments == '", "arguments": '


def test_llama31_is_asked_for_the_calls_that_are_parsed_even_if_its_template_ignores_tools() -> None:
    model = renderer(IGNORES_TOOLS, (*LLAMA3_TOKENS, "<|python_tag|>", "<|eom_id|>"), "<|eot_id|>")
    assert '{"name": function name, "parameters": dictionary' in prompt(model, (GREP,))
    assert model.format.calls.before_arguments == '", "parameters": '


def test_a_message_that_ends_for_a_tool_is_not_ended_again() -> None:
    model = renderer(IGNORES_TOOLS, (*LLAMA3_TOKENS, "<|python_tag|>", "<|eom_id|>"), "<|eot_id|>")
    control = model.vocabulary.control
    after_turn, after_message, after_cut = (
        list(model.render_step(log_ids=[control.get(token, 1)], messages=USER))
        for token in ("<|eot_id|>", "<|eom_id|>", "none")
    )
    assert after_message == after_turn
    assert after_cut == [control["<|eot_id|>"], *after_turn]


COUNTS = "{{ messages | length }}"
"""Makes a template that is not prefix-stable, but for conversations of two messages."""


def unstable(template: str) -> str:
    return template + "{% if messages | length > 2 %}" + COUNTS + "{% endif %}"


def test_a_built_in_format_keeps_the_first_token_and_the_thinking_that_the_own_template_opens() -> None:
    source = "{{ bos_token }}" + CHATML.turns.replace(
        "assistant{{ '\\n' }}{% endif %}", "assistant\n<think>\n{% endif %}"
    )
    assert source != "{{ bos_token }}" + CHATML.turns
    tokens = ("<s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    model = renderer(unstable(source), tokens, "<|im_end|>", bos="<s>")
    assert "depends on the conversation" in model.own_template_refused or "differently" in model.own_template_refused
    text = prompt(model)
    assert text.startswith("<s><|im_start|>user\nhello")
    assert text.endswith("<|im_start|>assistant\n<think>\n")
    assert model.opens_thinking(USER, ())


def test_a_built_in_format_does_not_replace_other_turns() -> None:
    source = unstable(
        CHATML.turns.replace("user", "user<|im_sep|>").replace("message.role }}", "message.role }}<|im_sep|>")
    )
    with pytest.raises(RenderError, match=r"built-in turn format \(chatml\): it writes .* where the model's own"):
        renderer(source, ("<|im_start|>", "<|im_end|>", "<|im_sep|>"), "<|im_end|>")


@pytest.mark.parametrize("tools", [(), (GREP,)])
def test_deepseek_thinks_after_a_users_message_and_not_after_a_tools(tools: tuple[Tool, ...]) -> None:
    model = family_models.format_renderer(format_named("deepseek-r1"), special_marks=False)
    assert model.opens_thinking(USER, tools)
    assert not model.opens_thinking([Message("tool", "7", tool_call_id="call_0")], tools)


@pytest.mark.parametrize("special_marks", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "mistral-v3", "mistral-v13", "deepseek-r1"])
def test_marks_that_are_tokens_are_text_of_the_output(name: str, special_marks: bool) -> None:
    from roost_worker.render.detokenizer import TextStream

    model = family_models.format_renderer(format_named(name), special_marks=special_marks)
    end = model.vocabulary.control[model.format.turn_ends[0]]
    ids = [model.vocabulary.control[mark] for mark in model.format.marks]
    assert TextStream(model).push([*ids, end]) == "".join(model.format.marks)


TOOL_TURNS = CHATML.turns.replace("# Tools", "# Functions")


@pytest.mark.parametrize("own", [TOOL_TURNS, unstable(TOOL_TURNS)])
def test_a_session_with_tools_has_the_template_for_tools_if_it_can_be_used(own: str) -> None:
    model = renderer(CHATML.turns, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", tool_chat_template=own)
    assert ("# Functions" in prompt(model, (GREP,))) is (own == TOOL_TURNS)
    assert "# " not in prompt(model)


def test_named_templates_of_a_folder_are_told_apart(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert (read_template(tmp_path), read_tool_template(tmp_path)) == ("a", "b")
    (tmp_path / "chat_template.jinja").write_text("c")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("d")
    assert (read_template(tmp_path), read_tool_template(tmp_path)) == ("c", "d")


def test_a_description_of_an_older_version_is_loaded_and_its_format_chosen(tmp_path: Path) -> None:
    path = tmp_path / "template.json"
    family_models.description("llama3").save(path)
    document = json.loads(path.read_bytes())
    for newer in ("format", "tool_chat_template"):
        del document[newer]
    path.write_text(json.dumps({**document, "family": "llama3"}))
    vocabulary = Vocabulary(family_models.tokenizer_json("llama3"))
    loaded = TemplateDescription.load(path)
    assert (loaded.format, Renderer(loaded, vocabulary, 1000).format.name) == ("", "llama3.1")


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RenderError, match=r"'later' is unknown; use one of deepseek-r1, .*hermes; convert the model"):
        renderer("", ("<s>",), "<s>", format="later")


def test_smollm3_has_its_sections_and_results_without_marks() -> None:
    model = family_models.format_renderer(format_named("smollm3"), special_marks=False)
    text = prompt(model, (GREP,))
    places = [text.index(part) for part in ("## Metadata", "## Custom Instructions", "### Tools", '"grep"', "hello")]
    assert places == sorted(places)
    table = {index: token for token, index in model.vocabulary.control.items()}
    ids = model.render_step(messages=[Message("tool", "7", tool_call_id="call_0")], log_ids=[1])
    assert [table[index] for index in ids if index in table] == [
        *("<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>")
    ]
