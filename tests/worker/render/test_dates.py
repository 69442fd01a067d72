"""Templates that write today's date: a session's prompts have the session's date, on whatever day they are rendered."""

from datetime import date

import pytest

import family_models
from roost_worker.render.dates import UNDATED, day_of
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import CHATML, SMOLLM3
from roost_worker.render.log import LogRenderer
from roost_worker.render.messages import Message, Tool
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

DAY = date(2026, 11, 30)
USER = [Message("user", "hello")]
TOKENS = ("<|im_start|>", "<|im_end|>")


def renderer(source: str, *more_tokens: str) -> Renderer:
    vocabulary = Vocabulary(family_models.build_tokenizer((*TOKENS, *more_tokens), ()))
    description = TemplateDescription(source, "", "<|im_end|>", (vocabulary.control["<|im_end|>"],))
    return Renderer(description, vocabulary, len(vocabulary.token_bytes))


def spelled(model: Renderer, ids: "list[int]") -> str:
    table = list(model.vocabulary.token_bytes)
    for text, index in model.vocabulary.control.items():
        table[index] = text.encode()
    return b"".join(table[index] for index in ids).decode()


def test_llamas_own_template_writes_the_sessions_date() -> None:
    model = family_models.renderer("llama3")
    assert model.own_template_refused == ""
    ids = list(model.render_step(messages=USER, day=DAY))
    assert "Today Date: 30 Nov 2026\n" in family_models.spell("llama3", ids)


def test_a_gateway_that_sends_no_date_gets_a_fixed_one() -> None:
    ids = list(family_models.renderer("llama3").render_step(messages=USER, day=day_of("")))
    assert "Today Date: 26 Jul 2024\n" in family_models.spell("llama3", ids)
    assert day_of("") == UNDATED


def test_smollm3s_own_template_is_used_and_writes_the_date() -> None:
    source = family_models.template("smollm3")
    model = renderer(source, "<|begin_of_text|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
    assert (model.format.name, model.own_template_refused) == ("smollm3", "")
    assert "\nToday Date: 30 November 2026\n" in spelled(model, list(model.render_step(messages=USER, day=DAY)))


def test_smollm3_without_a_template_writes_the_date_too() -> None:
    model = family_models.format_renderer(SMOLLM3, special_marks=False)
    assert "\nToday Date: 30 November 2026\n" in spelled(model, list(model.render_step(messages=USER, day=DAY)))


DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system{{ '\\n' }}"
    "It is {{ strftime_now('%Y-%m-%d') }}.<|im_end|>{{ '\\n' }}{% endif %}"
)
"""As Mistral's: the date is in the system text that the template writes for a conversation without one."""


def test_a_default_system_text_has_the_date_also_when_tools_are_added_to_it() -> None:
    ignores_tools = DEFAULT + CHATML.turns.replace("tools", "none")
    model = renderer(ignores_tools)
    assert model.own_template_refused == ""
    for tools in ((), (Tool("grep", "Search.", '{"type": "object"}'),)):
        text = spelled(model, list(model.render_step(messages=USER, tools=tools, day=DAY)))
        assert text.startswith("<|im_start|>system\nIt is 2026-11-30.")
        assert ("grep" in text) is bool(tools)


def test_a_log_is_rendered_again_with_the_date_that_it_had() -> None:
    model, answer = family_models.renderer("llama3"), Message("assistant", "hi")
    prompt, _ = LogRenderer(model, "Be brief.", (), day=DAY).step(USER, answer, "hi")
    assert prompt == model.render_step(messages=USER, system="Be brief.", day=DAY)
    assert prompt != model.render_step(messages=USER, system="Be brief.")


def test_what_is_no_day_is_refused() -> None:
    with pytest.raises(RenderError, match="date 'today' is not a day"):
        day_of("today")
