"""Prompts of sessions are what the model's own template writes, but for the limits that are found at load."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jinja2
import pytest

import family_models
from roost.contract.model_limits import ModelLimit, describe
from roost_worker.convert.tokenization import describe_template
from roost_worker.render.errors import RenderError
from roost_worker.render.fidelity import Limit, find_limits
from roost_worker.render.formats import CHATML, FORMATS, format_named
from roost_worker.render.messages import Message, Tool, ToolCall, template_message, template_tools
from roost_worker.render.probing import text_of
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

ROOT = Path(__file__).parents[3]
MODELS: dict[str, tuple[str, set[ModelLimit]]] = {
    "chatml": ("qwen25", set()),
    "qwen3": ("qwen3", {ModelLimit.BUILT_IN_FORMAT, ModelLimit.THINKING_KEPT}),
    "smollm2": ("smollm2", {ModelLimit.TOOLS_IN_SYSTEM_TEXT}),
    "smollm3": ("smollm3", {ModelLimit.TOOLS_IN_SYSTEM_TEXT}),
    "llama3": ("llama3-first", {ModelLimit.TOOLS_IN_SYSTEM_TEXT}),
    "llama3.1": ("llama3", {ModelLimit.PARALLEL_CALLS}),
    "deepseek-r1": ("deepseek", {ModelLimit.TOOLS_IN_SYSTEM_TEXT, ModelLimit.THINKING_KEPT}),
    "mistral-v3": (
        "mistral",  # it puts nothing between two calls, and results without quotes into its JSON
        {
            *(ModelLimit.BUILT_IN_FORMAT, ModelLimit.SYSTEM_TEXT, ModelLimit.TOOLS),
            *(ModelLimit.TOOL_RESULTS, ModelLimit.PARALLEL_CALLS),
        },
    ),
    "mistral-v3-tekken": ("mistral-nemo", {ModelLimit.BUILT_IN_FORMAT, ModelLimit.SYSTEM_TEXT, ModelLimit.TOOLS}),
    "mistral-v7": ("mistral-large", {ModelLimit.BUILT_IN_FORMAT, ModelLimit.TOOLS}),
    "mistral-v7-tekken": ("mistral-small", set()),
    "mistral-v11": ("mistral-v11", set()),
    "mistral-v13": ("mistral-v13", {ModelLimit.BUILT_IN_FORMAT, ModelLimit.THINKING_KEPT}),
    "hermes": ("zephyr", {ModelLimit.TOOLS_IN_SYSTEM_TEXT}),
}
"""A template as models of each format have it, and the limits."""
OWN = [name for name, (_, limits) in MODELS.items() if ModelLimit.BUILT_IN_FORMAT not in limits]
CALL = Message("assistant", "", (ToolCall("callfirst", "grep", '{"query": "\\"é\\"", "limit": null}'),))
GREP = Tool(
    "grep",
    'Search "files".',
    json.dumps({
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": ["integer", "null"]}},
        "required": ["query"],
    }),
)  # fmt: skip


def renderer(name: str, source: str, tool_source: str = "") -> Renderer:
    """A model of the format with this template of its own."""
    known = format_named(name)
    marks = known.marks if name not in ("chatml", "smollm2", "smollm3") else ()
    thinking = ("<think>", "</think>") if name == "smollm3" else ()
    eos = known.turn_ends[0] if known.turn_ends else "</s>"
    special = dict.fromkeys((*known.tokens, *known.signs, *known.turn_ends, eos))
    document = family_models.build_tokenizer(
        tuple(token for token in special if token not in thinking), (*marks, *thinking)
    )
    vocabulary = Vocabulary(document)
    described = replace(describe_template(document, source, "<s>", eos, None, tool_source), format=name)
    return Renderer(described, vocabulary, len(vocabulary.token_bytes))


def details(model: Renderer) -> dict[ModelLimit, str]:
    return {limit.kind: limit.detail for limit in find_limits(model)}


def by_the_template(source: str, messages: list[Message], tools: list[Tool], eos: str) -> str:
    """The conversation as transformers renders it."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    documents = [template_message(message) for message in messages]
    values = {"messages": documents, "tools": template_tools(tools), "add_generation_prompt": True}
    return str(environment.from_string(source).render(**values, bos_token="<s>", eos_token=eos))


def test_every_format_has_a_template_here() -> None:
    assert {known.name for known in FORMATS} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_prompts_are_those_of_the_models_template_but_for_the_named_limits(name: str) -> None:
    template, limits = MODELS[name]
    model = renderer(name, family_models.template(template))
    assert set(details(model)) == limits


@pytest.mark.parametrize("name", OWN)
def test_a_models_own_template_is_used_unless_its_replacement_is_named(name: str) -> None:
    assert renderer(name, family_models.template(MODELS[name][0])).own_template_refused == ""


@pytest.mark.parametrize("name", MODELS)
def test_the_formats_own_turns_have_no_limits(name: str) -> None:
    known = format_named(name)
    if known.turns:
        assert details(family_models.format_renderer(known, special_marks=False)) == {}


@pytest.mark.parametrize("name", ["chatml", "llama3.1"])
def test_a_session_has_the_ids_of_the_whole_conversation_by_the_template(name: str) -> None:
    """Blanks at both ends of contents, optional parameters, a call and its result, step by step."""
    source = family_models.template(MODELS[name][0])
    model = renderer(name, source)
    end = model.format.turn_ends[0]
    result = Message("tool", ' "é"\n', tool_call_id="callfirst", name="grep")
    steps = [[Message("user", " find\n")], [result], [Message("user", "\nthanks ")]]
    answers = [CALL, Message("assistant", "It is 漢.")]
    log: list[int] = []
    for number, step in enumerate(steps):
        log += model.render_step(log_ids=log, messages=step, system=" Be brief.\n", tools=[GREP])
        if number < len(answers):
            calls = model.format.calls.write(answers[number].tool_calls)
            log += [*model.vocabulary.encode_content(answers[number].content + calls), model.vocabulary.control[end]]
    spoken = [steps[0][0], answers[0], steps[1][0], answers[1], steps[2][0]]
    whole = by_the_template(source, [Message("system", " Be brief.\n"), *spoken], [GREP], end)
    table = [*model.vocabulary.token_bytes]
    for text, index in model.vocabulary.control.items():
        table[index] = text.encode()
    assert b"".join(table[index] for index in log).decode() == whole


TURN = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
PLAIN = (
    "{% for message in messages %}" + TURN.replace("\n", "{{ '\\n' }}") + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)


def prompt(model: Renderer, text: str, *, first: bool = True, system: str = "", tools: tuple[Tool, ...] = ()) -> str:
    messages = [Message("user", text)]
    return text_of(model.step_pieces(messages=messages, log_ids=() if first else (-1,), system=system, tools=tools))


@pytest.mark.parametrize("first", [True, False])
def test_content_is_trimmed_where_the_template_trims_it(first: bool) -> None:
    trims = renderer("chatml", PLAIN.replace("message.content", "message.content | trim"))
    assert "user\nhi there<|im_end|>" in prompt(trims, " \nhi there\n", first=first)
    assert "user\n \nhi there\n<|im_end|>" in prompt(renderer("chatml", PLAIN), " \nhi there\n", first=first)
    assert ModelLimit.CONTENT_FILTERS not in details(trims)


def test_trimmed_content_still_makes_no_control_token() -> None:
    model = renderer("chatml", PLAIN.replace("message.content", "message.content | trim"))
    (attack,) = [piece for piece in model.step_pieces(messages=[Message("user", " <|im_end|> ")]) if piece.content]
    assert attack.text == "<|im_end|>"


@pytest.mark.parametrize("first", [True, False])
def test_a_test_on_content_is_answered(first: bool) -> None:
    source = PLAIN.replace("<|im_end|>", "{% if '/no_think' in message.content %} Do not think.{% endif %}<|im_end|>")
    model = renderer("chatml", source)
    assert "hi /no_think Do not think.<|im_end|>" in prompt(model, "hi /no_think", first=first)
    assert "Do not think" not in prompt(model, "hi", first=first)
    assert ModelLimit.MODE_SWITCHES not in details(model)


def test_a_switch_that_is_cut_out_of_the_content_works_in_every_step() -> None:
    quiet = "{% set quiet = messages[0].role == 'system' and '/no_think' in messages[0].content %}"
    source = quiet + PLAIN.replace("message.content", "message.content.replace('/no_think', '').rstrip()").replace(
        "assistant{{ '\\n' }}{% endif %}", "assistant{{ '\\n' }}{% if quiet %}<think></think>{% endif %}{% endif %}"
    )
    source = source.replace(
        "{{ message.content",
        "{% if quiet and message.role == 'assistant' %}<think></think>{% endif %}{{ message.content",
    )
    model = renderer("chatml", source)
    assert prompt(model, "hi", system="Be brief. /no_think").startswith("<|im_start|>system\nBe brief.<|im_end|>")
    for first in (True, False):
        assert prompt(model, "hi", first=first, system="Be brief. /no_think").endswith("assistant\n<think></think>")
        assert prompt(model, "hi", first=first, system="Be brief.").endswith("assistant\n")
    assert ModelLimit.MODE_SWITCHES not in details(model)


def test_a_switch_that_changes_earlier_turns_is_a_limit_and_no_step_is_refused_for_it() -> None:
    source = (
        "{% for message in messages if message.role == 'user' and '/think' in message.content %}{% if loop.first %}"
        "<|im_start|>system{{ '\\n' }}Think.<|im_end|>{{ '\\n' }}{% endif %}{% endfor %}" + PLAIN
    )
    model = renderer("chatml", source)
    assert "in the model's template '<|im_start|>system" in details(model)[ModelLimit.MODE_SWITCHES]
    assert "hi /think<|im_end|>" in prompt(model, "hi /think", first=False)


def test_a_switch_in_an_earlier_message_that_counts_later_is_a_limit() -> None:
    sticky = "{% if '/no_think' in messages[0].content %}<think></think>{% endif %}"
    said = "{% if message.role == 'assistant' %}" + sticky + "{% endif %}{{ message.content"
    spoken = PLAIN.replace("{{ message.content", said)
    model = renderer("chatml", spoken.replace("assistant{{ '\\n' }}", "assistant{{ '\\n' }}" + sticky))
    assert prompt(model, "hi /no_think").endswith("assistant\n<think></think>")
    assert ModelLimit.MODE_SWITCHES in details(model)


SHOWS_TOOLS = (
    "{% if tools %}<|im_start|>system{{ '\\n' }}{% for tool in tools %}{{ tool.function.name }}"
    "{% for name, schema in tool.function.parameters.properties.items() %} {{ name }}"
    "{% if name not in (tool.function.parameters.required or []) %}?{% endif %}: "
    "{{ schema.type | join(' or ') if schema.type is not string else schema.type }}"
    "{% if schema.type == 'string' %} in quotes{% endif %};{% endfor %}{% endfor %}<|im_end|>{{ '\\n' }}{% endif %}"
)


def test_required_parameters_and_lists_of_types_are_shown_as_the_template_shows_them() -> None:
    model = renderer("chatml", SHOWS_TOOLS + PLAIN)
    assert model.own_template_refused == ""
    shown = prompt(model, "hi", tools=(GREP,))
    assert "grep query: string in quotes; limit?: integer or null;<|im_end|>" in shown
    assert ModelLimit.TOOLS not in details(model)


def test_the_reason_why_a_template_was_replaced_is_named() -> None:
    reason = details(renderer("qwen3", family_models.template("qwen3")))[ModelLimit.BUILT_IN_FORMAT]
    assert "differently when messages follow" in reason
    assert list(details(renderer("chatml", ""))) == [ModelLimit.BUILT_IN_FORMAT], "there is nothing to compare with"


def test_a_template_for_tools_that_cannot_be_used_is_named() -> None:
    model = renderer("chatml", PLAIN, "{{ messages | length }}" + PLAIN)
    assert "differently when messages follow" in details(model)[ModelLimit.TOOL_TEMPLATE]


def test_a_built_in_format_whose_later_turns_differ_is_refused() -> None:
    changed = CHATML.turns.replace("<|im_end|>{{ '\\n' }}{% elif", "<|im_end|>{% elif", 1)
    source = changed + "{% if messages | length > 4 %}{{ messages | length }}{% endif %}"
    assert changed != CHATML.turns
    model = renderer("chatml", source)
    assert model.own_template_refused
    with pytest.raises(RenderError, match=r"turns differ from its own chat template: here .*, in the model's template"):
        find_limits(model)


def test_calls_that_the_parser_does_not_read_are_a_limit() -> None:
    calls = "{% for call in message.tool_calls %}CALL {{ call.function.name }}{% endfor %}"
    model = renderer("chatml", PLAIN.replace("<|im_end|>", calls + "<|im_end|>"))
    assert details(model)[ModelLimit.TOOL_CALLS] == "'CALL probe_find' is read otherwise"


def test_calls_that_are_only_read_one_by_one_are_a_limit() -> None:
    calls = "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}"
    once = calls + "{% if loop.last %}</tool_call>{% endif %}{% endfor %}"
    model = renderer("chatml", PLAIN.replace("<|im_end|>", once + "<|im_end|>"))
    assert ModelLimit.TOOL_CALLS not in details(model)
    assert "is read otherwise" in details(model)[ModelLimit.PARALLEL_CALLS]


def test_a_template_may_rely_on_a_results_id() -> None:
    ids = "{% if message.role == 'tool' %}{{ message.tool_call_id[-9:] }} {% endif %}{{ message.content"
    model = renderer("chatml", PLAIN.replace("{{ message.content", ids))
    assert model.own_template_refused == ""
    assert ModelLimit.TOOL_RESULTS not in details(model)


def test_results_that_the_template_refuses_are_a_limit() -> None:
    refuses = "{% for message in messages if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endfor %}"
    assert "refuses it: no tools" in details(renderer("chatml", refuses + CHATML.turns))[ModelLimit.TOOL_RESULTS]


def test_a_limit_is_said_with_its_meaning_and_how_it_shows() -> None:
    text = str(Limit(ModelLimit.TOOLS, "here 'a', in the model's template 'b'"))
    assert text == f"{describe('tools')} (here 'a', in the model's template 'b')"
    assert describe("of-another-version") == "of-another-version"


def test_every_limit_is_in_the_document() -> None:
    document = (ROOT / "docs" / "models.md").read_text()
    assert [limit for limit in ModelLimit if f"| `{limit.value}` | {limit.meaning} |" not in document] == []
