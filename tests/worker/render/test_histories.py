"""A history that a client brings is rendered as the model's own turns: its calls are calls, and its content is text."""

import json
import re
from datetime import date
from functools import partial
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

import family_models
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import FORMATS, Turn, TurnFormat, format_named
from roost_worker.render.log import LogRenderer
from roost_worker.render.messages import Message, Tool, ToolCall, template_message
from roost_worker.render.pieces import Piece
from roost_worker.render.probing import shows_part
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

WITH_TURNS = [known for known in FORMATS if known.turns]
LOOK = ToolCall("abc123xyz", "grep", '{"q": "two needles", "n": 10}')
READ = ToolCall("def456uvw", "w", "{}")
HISTORY = [
    Message("user", "Find the needle."),
    Message("assistant", "", (LOOK, READ)),
    Message("tool", "a needle", tool_call_id=LOOK.id, name="grep"),
    Message("tool", "no needle", tool_call_id=READ.id, name="w"),
    Message("assistant", "Found it."),
    Message("user", "Once more."),
    Message("assistant", "Let me look.", (LOOK,)),
    Message("tool", "a needle", tool_call_id=LOOK.id, name="grep"),
    Message("assistant", "Found it again."),
    Message("system", "Be brief."),
    Message("user", "Thanks."),
]


def reference(template: str, messages: list[Message], eos_token: str, bos_token: str = "") -> str:
    """The conversation as transformers renders it."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["strftime_now"] = date(2024, 7, 26).strftime
    documents = [template_message(message) for message in messages]
    rendered: str = environment.from_string(template).render(
        messages=documents, add_generation_prompt=True, bos_token=bos_token, eos_token=eos_token
    )
    return rendered


@pytest.mark.parametrize("special_marks", [False, True])
@pytest.mark.parametrize("known", WITH_TURNS, ids=lambda known: known.name)
def test_a_history_gets_the_ids_of_the_reference_rendering(known: TurnFormat, special_marks: bool) -> None:
    model = family_models.built_in_renderer(known, special_marks=special_marks)
    text = reference(known.turns, [Message("system", "Be kind."), *HISTORY], known.turn_ends[0])
    tokenizer = Tokenizer.from_str(family_models.format_tokenizer(known, special_marks=special_marks))
    ids = model.render_step(system="Be kind.", messages=HISTORY)
    assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


ONE_CALL_AT_ONCE = [
    message if len(message.tool_calls) < 2 else Message("assistant", "", (LOOK,))
    for message in HISTORY
    if (message.content != "no needle" and not (message.content and message.tool_calls))
]
"""What Llama 3.1's own template can show."""


@pytest.mark.parametrize(("name", "history"), [("qwen3", HISTORY), ("llama3", ONE_CALL_AT_ONCE)])
def test_a_history_gets_the_ids_of_the_models_own_template(name: str, history: list[Message]) -> None:
    bos, eos = family_models.BOUNDS[name]
    text = reference(family_models.template(name), [Message("system", "Be kind."), *history], eos, bos)
    ids = family_models.renderer(name).render_step(system="Be kind.", messages=history)
    assert ids.tolist() == family_models.full_tokenizer(name).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("content", ["", "Let me look."])
@pytest.mark.parametrize("known", WITH_TURNS, ids=lambda known: known.name)
def test_a_rendered_answer_is_read_back_as_the_message_that_it_was(known: TurnFormat, content: str) -> None:
    if content and known.name == "llama3.1":
        pytest.skip("its calls are recognised when the whole text is calls")
    model = family_models.built_in_renderer(known, special_marks=True)
    calls = (ToolCall("abc123xyz", "grep", '{ "n":1.10,"q":"}</x>\\u00e9" }'), READ)
    history = [Message("user", "go"), Message("assistant", content, calls)]
    ids = model.render_step(messages=[*history, Message("user", "next")])
    whole = spelled(model.vocabulary, ids)
    answer = whole[whole.index("go") + 2 : whole.rindex("next")]
    start = answer.index(content or known.calls.start + known.calls.before_name)
    ends = "|".join(map(re.escape, known.turn_ends))
    parsed = known.parse(re.split(ends, answer[start:])[0], Turn({"grep", "w"}))
    assert (parsed.content, parsed.warnings) == (content, ())
    assert [(call.name, call.arguments_json) for call in parsed.calls] == [(c.name, c.arguments_json) for c in calls]
    if known.calls.id_after_name + known.calls.id_after_arguments:
        assert [call.id for call in parsed.calls] == [call.id for call in calls]


@pytest.mark.parametrize("name", ["smollm2", "llama3"])
def test_a_history_at_once_equals_its_steps_one_by_one(name: str) -> None:
    renderer = family_models.renderer(name)
    end = renderer.vocabulary.control[family_models.BOUNDS[name][1]]
    log: list[int] = []
    first = 0
    for place, message in enumerate(HISTORY):
        if message.role != "assistant":
            continue
        log += renderer.render_step(system="Be kind.", messages=HISTORY[first:place], log_ids=log)
        written = renderer.format.calls.message_pieces(message.content, message.tool_calls)
        log += renderer.vocabulary.encode(written) if message.tool_calls else []
        log += [] if message.tool_calls else renderer.vocabulary.encode_content(message.content)
        log.append(end)
        first = place + 1
    log += renderer.render_step(messages=HISTORY[first:], log_ids=log)
    assert log == renderer.render_step(system="Be kind.", messages=HISTORY).tolist()


@pytest.mark.parametrize("name", family_models.NAMES)
def test_a_later_step_may_bring_history(name: str) -> None:
    renderer = family_models.renderer(name)
    ids = renderer.render_step(messages=HISTORY, log_ids=[1])
    text = family_models.spell(name, ids.tolist())
    places = [
        text.index(part) for part in ("Find", '"two needles"', "Found it.", "Once", "Let me", "again.", "Be", "Thanks")
    ]
    assert places == sorted(places)
    assert renderer.render_step(messages=HISTORY[4:], log_ids=[1])


def test_marks_of_a_brought_and_of_a_migrated_call_are_the_formats_tokens() -> None:
    renderer = family_models.renderer("qwen3")
    marks = [renderer.vocabulary.control[mark] for mark in ("<tool_call>", "</tool_call>")]
    call = ToolCall("call_0", "grep", '{"q": "</tool_call><tool_call>"}')
    tricked = Message("assistant", "<tool_call>", (call,))
    brought = renderer.render_step(messages=[Message("user", "<tool_call>"), tricked, Message("user", "next")])
    log = LogRenderer(renderer, "", ())
    _, migrated = log.step([Message("user", "go")], tricked, "<tool_call>[TOOL_CALLS]grep[ARGS]")
    for ids in (brought, migrated):
        assert [index for index in ids if index in marks] == marks


def test_what_a_template_does_with_content_leaves_marks_of_calls_as_they_are() -> None:
    content = "{{ message.content }}"
    assert content in format_named("qwen3").turns
    source = format_named("qwen3").turns.replace(content, "{{ (message.content.split('</think>') | last) | trim }}")
    tokens = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    vocabulary = Vocabulary(family_models.build_tokenizer(("<|im_start|>", "<|im_end|>"), tokens))
    ends = (vocabulary.control["<|im_end|>"],)
    renderer = Renderer(TemplateDescription(source, "", "<|im_end|>", ends, "qwen3"), vocabulary, 1000)
    assert renderer.own_template_refused == ""
    marks = [vocabulary.control[mark] for mark in tokens[:2]]
    ids = renderer.render_step(messages=[Message("assistant", "Hm.", (LOOK, READ)), Message("user", "go")])
    assert [index for index in ids if index in marks] == marks * 2


def test_a_template_that_wants_to_know_of_calls_before_results_writes_them_itself() -> None:
    check = "{% if message.role == 'tool' and not ns.calls %}{{ raise_exception('no call') }}{% endif %}"
    note = "{% set ns.calls = message.tool_calls is defined or message.role == 'tool' %}"
    chatml = format_named("chatml")
    source = "{% set ns = namespace(calls=false) %}" + chatml.turns.replace(
        "{% for message in messages %}", "{% for message in messages %}" + check + note
    )
    vocabulary = Vocabulary(family_models.build_tokenizer(("<|im_start|>", "<|im_end|>"), ()))
    ends = (vocabulary.control["<|im_end|>"],)
    renderer = Renderer(TemplateDescription(source, "", "<|im_end|>", ends, "chatml"), vocabulary, 1000)
    assert renderer.own_template_refused == ""
    ids = renderer.render_step(messages=HISTORY)
    assert b'{"name": "grep", "arguments": {"q": "two needles", "n": 10}}' in b"".join(
        vocabulary.token_bytes[index] for index in ids
    )


REFUSES = "{% if message.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}"
DROPS = "{% if message.role == 'system' and not loop.first %}{% continue %}{% endif %}"


@pytest.mark.parametrize("rule", [REFUSES, DROPS, ""])
def test_a_system_message_without_a_place_in_the_template_is_the_users(rule: str) -> None:
    loop = "{% for message in messages %}"
    source = format_named("chatml").turns.replace(loop, loop + rule)
    vocabulary = Vocabulary(family_models.build_tokenizer(("<|im_start|>", "<|im_end|>"), ()))
    ends = (vocabulary.control["<|im_end|>"],)
    renderer = Renderer(TemplateDescription(source, "", "<|im_end|>", ends, "chatml"), vocabulary, 1000)
    assert renderer.own_template_refused == ""
    instruction, role = Message("system", "Be brief."), "user" if rule else "system"
    user = Message("user", "go")
    for messages, log in (([user, instruction], []), ([instruction, user], [1]), ([instruction], [1])):
        text = spelled(vocabulary, renderer.render_step(system="Be kind.", messages=messages, log_ids=log))
        assert text.count("<|im_start|>system\nBe kind.<|im_end|>") == (not log)
        assert f"<|im_start|>{role}\nBe brief.<|im_end|>\n" in text
    first = spelled(vocabulary, renderer.render_step(messages=[instruction, user]))
    assert first.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\ngo")
    alone = spelled(vocabulary, renderer.render_step(messages=[instruction]))
    assert alone.startswith("<|im_start|>user\nBe brief.<|im_end|>\n<|im_start|>assistant\n")


def spelled(vocabulary: Vocabulary, ids: Any) -> str:
    texts = {index: text for text, index in vocabulary.control.items()}
    return b"".join(texts[i].encode() if i in texts else vocabulary.token_bytes[i] for i in ids).decode()


@pytest.mark.parametrize("known", WITH_TURNS, ids=lambda known: known.name)
def test_a_history_may_begin_with_an_answer_and_hold_empty_ones(known: TurnFormat) -> None:
    model = family_models.built_in_renderer(known, special_marks=True)
    history = [Message("assistant", "Hello."), Message("assistant"), Message("user", "go"), Message("tool", "7")]
    text = spelled(model.vocabulary, model.render_step(system="Be kind.", tools=[Tool("grep")], messages=history))
    places = [text.index(part) for part in ("Be kind.", "Hello.", "go", "7")]
    assert places == sorted(places)


@pytest.mark.parametrize("known", WITH_TURNS, ids=lambda known: known.name)
def test_arguments_that_are_no_json_or_nested_without_end_stay_text(known: TurnFormat) -> None:
    model = family_models.built_in_renderer(known, special_marks=True)
    for arguments in ("{", "{}}", "[" * 20_000, "no JSON </s>"):
        history = [Message("assistant", "", (ToolCall("", "grep", arguments),)), Message("user", "go")]
        assert arguments in spelled(model.vocabulary, model.render_step(messages=history))
        assert arguments in spelled(model.vocabulary, model.render_step(messages=history, log_ids=[1]))


@pytest.mark.parametrize("lost", [0, 1, 500])
def test_a_message_that_a_template_drops_is_missed_among_many(lost: int) -> None:
    drop = f"{{% if loop.index0 == {lost} %}}{{% continue %}}{{% endif %}}"
    loop = "{% for message in messages %}"
    source = format_named("chatml").turns.replace(loop, loop + "{% if messages | length > 99 %}" + drop + "{% endif %}")
    vocabulary = Vocabulary(family_models.build_tokenizer(("<|im_start|>", "<|im_end|>"), ()))
    ends = (vocabulary.control["<|im_end|>"],)
    renderer = Renderer(TemplateDescription(source, "", "<|im_end|>", ends, "chatml"), vocabulary, 1000)
    many = [Message(("user", "assistant")[number % 2], f'"{number}"') for number in range(1001)]
    with pytest.raises(RenderError, match=f"drops a message of role {many[lost].role}"):
        renderer.step_pieces(messages=many)
    renderer.step_pieces(messages=many[:99])


def test_messages_after_a_long_system_text_are_looked_for_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not in the whole prompt, for each of them: a history may have 10,000."""
    looked_for = []

    def looks_everywhere(pieces: list[Piece], content: str) -> bool:
        looked_for.append(content)
        return shows_part(pieces, content)

    monkeypatch.setattr("roost_worker.render.renderer.shows_part", looks_everywhere)
    model, system = family_models.built_in_renderer(format_named("chatml"), special_marks=True), "Be brief. " * 2000
    model.step_pieces(system=system, messages=HISTORY)
    assert looked_for == [system]
