"""What a grammar forces is what draws under its masks would give, whatever the tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import family_models
from grammars import Tool
from roost_worker.grammar import GrammarCompiler, GrammarState, build_json_schema, build_tool_call, fill_masks
from roost_worker.render.formats import FORMATS, TurnFormat

MOST = 1000
VOCABULARY = 1024
"""More than any tokenizer here has; the rest is padding."""
TOOLS = (
    Tool("grep", '{"properties": {"query": {"type": "string"}, "limit": {"enum": [3, 30]}}, "required": ["limit"]}'),
    Tool("grep_all", '{"properties": {"it\'s": {"const": "!\'t x\'re"}}, "additionalProperties": false}'),
    Tool("list-files", "{}"),
)
SCHEMAS = {
    "contractions": {
        "type": "array",
        "prefixItems": [{"enum": ["don't", "doesn't", "d"]}, {"const": "!'t  é\n1234 😀't"}, {"type": "integer"}],
        "minItems": 3,
        "items": False,
    },
    "ends late": {"type": "number", "multipleOf": 5, "maximum": 20},
    "may end or go on": {"enum": ["a", "ab", 1, 12, "'"]},
    "bounded": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
}


def contracting_tokenizer() -> str:
    """Bytes, and `'t` as one token, which GPT-2's tokenizer finds at the beginning of a text, and not behind a sign."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate([*letters, "'t"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("'", "t")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return str(tokenizer.to_str())


def compiler_of(document: str, end: str, folder: Path) -> GrammarCompiler:
    path = folder / "tokenizer.json"
    path.write_text(document)
    return GrammarCompiler(path, [Tokenizer.from_str(document).token_to_id(end)], VOCABULARY)


def allowed(state: GrammarState) -> list[int]:
    """The ids that may come next."""
    words = np.zeros((1, VOCABULARY // 32), dtype=np.int32)
    fill_masks([state], words)
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def drawn_alone(state: GrammarState) -> list[int]:
    """What draws give as long as each has one id to choose from."""
    ids: list[int] = []
    while not state.done and len(only := allowed(state)) == 1:
        state.consume(only)
        ids += only
    return ids


def assert_forces_what_draws_give(compiler: GrammarCompiler, grammar: str, choices: Sequence[int]) -> None:
    """Walk a grammar twice, by `choices` where it leaves one."""
    forcing, drawing = compiler.start(grammar), compiler.start(grammar)
    for choice in choices:
        assert forcing.force(MOST) == drawn_alone(drawing)
        if forcing.done:
            break
        ids = allowed(forcing)
        assert len(ids) > 1
        forcing.consume([ids[choice % len(ids)]])
        drawing.consume([ids[choice % len(ids)]])
    assert forcing.done == drawing.done


CHOICES = st.lists(st.integers(0, 10_000), min_size=16, max_size=16)


@pytest.mark.parametrize("special_marks", [True, False])
@pytest.mark.parametrize("turn_format", [known for known in FORMATS if known.turns], ids=lambda known: known.name)
def test_a_forced_call_is_the_drawn_one(
    tmp_path_factory: pytest.TempPathFactory, turn_format: TurnFormat, special_marks: bool
) -> None:
    document = family_models.format_tokenizer(turn_format, special_marks=special_marks)
    compiler = compiler_of(document, turn_format.turn_ends[0], tmp_path_factory.mktemp("model"))
    wrapper = family_models.format_renderer(turn_format, special_marks=special_marks).call_wrapper
    grammar = build_tool_call(TOOLS, "", wrapper)

    @given(choices=CHOICES)
    @settings(max_examples=10, deadline=None)
    def walk(choices: list[int]) -> None:
        assert_forces_what_draws_give(compiler, grammar, choices)

    walk()


@pytest.fixture(scope="module")
def contracting(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return compiler_of(contracting_tokenizer(), "</s>", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", SCHEMAS)
@given(choices=CHOICES)
@settings(max_examples=20, deadline=None)
def test_forced_json_is_the_drawn_one(contracting: GrammarCompiler, name: str, choices: list[int]) -> None:
    assert_forces_what_draws_give(contracting, build_json_schema(json.dumps(SCHEMAS[name])), choices)


def test_each_forced_id_begins_what_is_forced_behind_the_one_before(contracting: GrammarCompiler) -> None:
    tokenizer, text = Tokenizer.from_str(contracting_tokenizer()), "😀't."
    forced = contracting.start(f'start: "{text}"').force(MOST)
    assert [tokenizer.id_to_token(index) for index in forced[4:]] == ["'t", "."]
    assert tokenizer.encode(text, add_special_tokens=False).tokens[4:] == ["'", "t", "."]


def test_no_more_is_forced_than_was_asked_for_and_nothing_after_the_end(contracting: GrammarCompiler) -> None:
    state = contracting.start('start: "abcdef"')
    assert [len(state.force(most)) for most in (0, 2, 3)] == [0, 2, 3]
    assert not state.done
    assert len(state.force(MOST)) == 1
    assert state.done
    assert state.force(MOST) == []


def test_few_ids_of_a_long_constant_are_forced_at_once(contracting: GrammarCompiler) -> None:
    state = contracting.start(build_json_schema(json.dumps({"const": "x" * 60_000})))
    assert len(state.force(MOST)) == 1
    state = contracting.start(build_json_schema(json.dumps({"const": "x" * 62})))
    assert len(state.force(MOST)) == 64


def test_an_id_that_is_forced_and_refused_is_left_to_its_draw(contracting: GrammarCompiler) -> None:
    """llguidance divides "</s>" as the control token, which the text does not match."""
    state = contracting.start('start: "a</s>b"')
    forced = state.force(MOST)
    assert (len(forced), state.error, len(allowed(state))) == (1, "", 1)


def test_a_broken_grammar_forces_nothing(contracting: GrammarCompiler) -> None:
    state = contracting.start('start: "ab"')
    with pytest.raises(ValueError, match="leaves the grammar"):
        state.consume([0])
    assert state.force(MOST) == []
