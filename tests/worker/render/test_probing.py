"""Which templates are used as they are, which are replaced by a built-in turn format, and which are refused."""

import pytest

import family_models
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import CHATML
from roost_worker.render.probing import default_system, probe
from roost_worker.render.renderer import Renderer
from roost_worker.render.sandbox import ChatTemplate
from roost_worker.render.vocabulary import Vocabulary


def _renderer(name: str, description: TemplateDescription) -> Renderer:
    return Renderer(description, Vocabulary(family_models.tokenizer_json(name)), 1000)


def _refusal(name: str, source: str) -> str:
    bounds = family_models.BOUNDS[name]
    with pytest.raises(RenderError) as caught:
        probe(ChatTemplate(source, *bounds), [bounds[1]])
    return str(caught.value)


@pytest.mark.parametrize(("name", "turn_format"), [("smollm2", "smollm2"), ("llama3", "llama3.1")])
def test_a_stable_template_is_used_as_it_is(name: str, turn_format: str) -> None:
    renderer = family_models.renderer(name)
    assert renderer.format.name == turn_format
    assert renderer.own_template_refused == ""


@pytest.mark.parametrize(("name", "turn_format"), [("qwen3", "qwen3"), ("mistral", "mistral-v3")])
def test_an_unstable_template_gives_way_to_the_built_in_format(name: str, turn_format: str) -> None:
    renderer = family_models.renderer(name)
    assert renderer.format.name == turn_format
    assert "differently when messages follow" in renderer.own_template_refused


def test_qwen3_without_its_empty_thinking_still_drops_old_thinking() -> None:
    source = family_models.template("qwen3").replace(
        "loop.last or (not loop.last and reasoning_content)", "reasoning_content"
    )
    assert "drops an earlier turn's thinking" in _refusal("qwen3", source)


def test_mistral_that_moves_only_its_tools_is_still_unstable() -> None:
    source = family_models.template("mistral").replace("loop.last and system_message", "loop.first and system_message")
    assert (
        _refusal("mistral", source)
        == "a user's message: it writes the conversation so far differently when messages follow"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            ('{%- elif message.role == "tool"', '{%- elif message.role == "never"'),
            "a tool's result: it drops the message",
        ),
        (("{{- system_message }}", ""), "system text: it drops it"),
        (("'<|eot_id|>'", "'the end'"), "has no end-of-turn token"),
        (("message['content'] | trim", "(message['content'] | trim)[:2]"), "it drops the message"),
        (("message['content'] | trim", "('' + message['content'])[:2]"), "splits content"),
    ],
)
def test_the_reason_of_a_refusal_is_named(change: tuple[str, str], reason: str) -> None:
    source = family_models.template("llama3").replace(*change)
    assert reason in _refusal("llama3", source)


def test_a_template_that_counts_its_messages_is_unstable() -> None:
    source = CHATML.turns.replace("{{ message.role }}", "{{ message.role }} {{ loop.index }}")
    assert "depends on the conversation before" in _refusal("smollm2", source)


def test_a_template_that_is_no_template_is_refused() -> None:
    assert "not valid Jinja" in _refusal("smollm2", "{% for %}")


@pytest.mark.parametrize("attack", ["{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}"])
def test_a_template_cannot_reach_python(attack: str) -> None:
    assert "refuses" in _refusal("smollm2", attack + CHATML.turns)


@pytest.mark.parametrize("name", family_models.NAMES)
def test_every_built_in_format_is_stable_and_shows_tools(name: str) -> None:
    bounds = family_models.BOUNDS[name]
    template = ChatTemplate(family_models.renderer(name).format.turns, *bounds)
    behaviour = probe(template, [bounds[1]])
    assert behaviour.shows_tools
    assert behaviour.shows_tool_calls
    assert default_system(template) == ""


def test_a_model_without_template_takes_its_familys_turns() -> None:
    description = family_models.description("llama3", "")
    assert description.format == "llama3.1"
    assert _renderer("llama3", description).own_template_refused == "the model has no chat template"


def test_an_unknown_family_with_an_unstable_template_is_refused_with_both_reasons() -> None:
    description = TemplateDescription("{{ messages | length }}", "", "</s>", (430,))
    with pytest.raises(
        RenderError, match=r"own chat template: .*built-in turn format \(hermes\): it has no turns of its own"
    ):
        _renderer("mistral", description)


def test_a_tokenizer_without_the_familys_tokens_is_refused() -> None:
    description = TemplateDescription("", "", "</s>", (430,), "chatml")
    with pytest.raises(RenderError, match=r"the tokenizer lacks <\|im_start\|>"):
        _renderer("mistral", description)


def test_a_template_without_tool_turns_gives_way_to_its_format_and_says_so() -> None:
    source = CHATML.turns.replace("message.role == 'tool'", "message.role == 'never'").replace(
        "message.role == 'user' or not loop.first", "message.role == 'user'"
    )
    vocabulary = Vocabulary(family_models.build_tokenizer(("<|im_start|>", "<|im_end|>"), ()))
    ends = (vocabulary.control["<|im_end|>"],)
    renderer = Renderer(TemplateDescription(source, "", "<|im_end|>", ends, "chatml"), vocabulary, 1000)
    assert renderer.own_template_refused == "a tool's result: it drops the message"
    unknown = TemplateDescription(source, "", "<|im_end|>", ends, "hermes")
    with pytest.raises(RenderError, match=r"its own chat template: a tool's result: it drops the message"):
        Renderer(unknown, vocabulary, 1000)
