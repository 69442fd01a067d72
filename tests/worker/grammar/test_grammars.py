"""Grammars allow exactly the JSON that a schema or a tool asks for; what is too much is refused with a reason."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import family_models
from grammars import EOS, Tool, accepts, allowed_ids, dummy_compiler
from roost_worker.convert.store import ModelStore
from roost_worker.grammar import (
    GrammarCompiler,
    GrammarError,
    build_json_schema,
    build_tool_call,
    fill_masks,
)
from roost_worker.render.detokenizer import TextStream
from roost_worker.render.formats import FORMATS, CallWrapper, Turn, TurnFormat, WrittenCall, format_named
from roost_worker.render.messages import Message, ToolCall
from roost_worker.render.pieces import Piece

POINT = '{"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false}'


GREP = Tool("grep", POINT.replace('"x"', '"limit"'))
LIST = Tool("list-files", "{}")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return dummy_compiler(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize(
    ("schema", "text", "accepted"),
    [
        (POINT, '{"x":12}', True),
        ('{"type": "integer", "maximum": 18446744073709551615}', "7", True),
        (POINT, '{"x": 12}', False),
        (POINT, '{"x":"a"}', False),
        (POINT, '{"x":1,"y":2}', False),
        (POINT, "{}", False),
        ('{"type": "string"}', '"<|im_end|> \\n é"', True),
        ('{"enum": ["a", "b"]}', '"c"', False),
        ('{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}', "[true,false]", True),
        ('{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}', "[true,false,true]", False),
        ("{}", '{"anything":[1,null]}', True),
        ('{"type": "object", "x-guidance": {"whitespace_flexible": true}}', '{ "a":1}', False),
    ],
)
def test_json_follows_its_schema(compiler: GrammarCompiler, schema: str, text: str, accepted: bool) -> None:
    assert accepts(compiler, build_json_schema(schema), text) is accepted


WRITTEN = {
    "chatml": '<tool_call>\n{"name": "grep", "arguments": {"limit": 3}}\n</tool_call>',
    "smollm2": '<tool_call>[\n{"name": "grep", "arguments": {"limit": 3}}\n]</tool_call>',
    "llama3.1": '{"name": "grep", "parameters": {"limit": 3}}',
    "mistral-v3": '[TOOL_CALLS] [{"name": "grep", "arguments": {"limit": 3}}]',
    "mistral-v13": '[TOOL_CALLS]grep[ARGS]{"limit": 3}',
}


def _wrapper(name: str) -> CallWrapper:
    """The wrapper in a vocabulary that has no tokens of the format's."""
    return format_named(name).calls.wrapper({})


@pytest.mark.parametrize("name", WRITTEN)
def test_a_tool_call_is_written_in_the_formats_wrapper(compiler: GrammarCompiler, name: str) -> None:
    any_tool = build_tool_call([LIST, GREP], "", _wrapper(name))
    assert accepts(compiler, any_tool, WRITTEN[name])
    assert accepts(compiler, build_tool_call([LIST, GREP], "grep", _wrapper(name)), WRITTEN[name])
    assert not accepts(compiler, build_tool_call([LIST, GREP], "list-files", _wrapper(name)), WRITTEN[name])
    assert not accepts(compiler, any_tool, WRITTEN[name].replace('"limit"', '"other"'))
    assert not accepts(compiler, any_tool, WRITTEN[name].replace("grep", "rm"))


TURN = Turn({"grep"})
CALL = WrittenCall("grep", '{"limit": 3}')


@pytest.mark.parametrize("special_marks", [True, False])
@pytest.mark.parametrize("turn_format", [known for known in FORMATS if known.turns], ids=lambda known: known.name)
def test_what_a_format_renders_its_grammar_allows_and_its_parser_reads(
    tmp_path: Path, turn_format: TurnFormat, special_marks: bool
) -> None:
    renderer = family_models.format_renderer(turn_format, special_marks=special_marks)
    assert renderer.format is turn_format
    call = ToolCall("abc123xyz", "grep", CALL.arguments_json)
    turns = [Message("user", "hi"), Message("assistant", "", (call,)), Message("tool", "7", tool_call_id=call.id)]
    ids = list(renderer.vocabulary.encode([Piece(turn_format.calls.write([CALL]), content=False)]))
    if not turn_format.calls.id_after_name + turn_format.calls.id_after_arguments:
        shown = list(renderer.render_step(messages=turns))
        assert any(shown[start : start + len(ids)] == ids for start in range(len(shown)))
    path = tmp_path / "tokenizer.json"
    path.write_text(family_models.format_tokenizer(turn_format, special_marks=special_marks))
    compiler = GrammarCompiler(path, renderer.eos_token_ids, renderer.vocab_size)
    state = compiler.start(build_tool_call([LIST, GREP], "", renderer.call_wrapper))
    state.consume(ids)
    assert state.done
    text = TextStream(renderer).push(ids)
    assert (
        turn_format.parse(text, TURN).calls == turn_format.parse(text, replace(TURN, constrained=True)).calls == (CALL,)
    )


def test_a_tool_without_schema_takes_an_object(compiler: GrammarCompiler) -> None:
    grammar = build_tool_call([LIST], "", _wrapper("llama3.1"))
    assert accepts(compiler, grammar, '{"name": "list-files", "parameters": {"a": 1}}')
    assert not accepts(compiler, grammar, '{"name": "list-files", "parameters": 1}')


def test_done_as_soon_as_nothing_may_follow(compiler: GrammarCompiler) -> None:
    state = compiler.start(build_json_schema(POINT))
    state.consume(b'{"x":1')
    assert not state.done
    state.consume(b"}")
    assert state.done
    assert allowed_ids(state) == set(EOS)


def test_tokens_and_ends_that_the_model_cannot_draw_are_left_out(tmp_path: Path) -> None:
    """Padding that a tokenizer has beyond the model's vocabulary, and ends of turns without a token."""
    plain = ModelStore(tmp_path).prepare("dummy://llama-tiny", "float32").path / "tokenizer.json"
    tokenizer = json.loads(plain.read_bytes())
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<pad>"})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    compiler = GrammarCompiler(path, (*EOS, last["id"] + 1, last["id"] + 1000), last["id"] + 1)
    assert accepts(compiler, build_json_schema(POINT), '{"x":12}')
    state = compiler.start(build_json_schema(POINT))
    state.consume(b'{"x":1}')
    assert state.done
    assert allowed_ids(state) == set(EOS)


def test_a_number_alone_may_go_on_or_end(compiler: GrammarCompiler) -> None:
    state = compiler.start(build_json_schema('{"type": "integer"}'))
    state.consume(b"12")
    assert not state.done
    assert {*EOS, ord("3")} <= allowed_ids(state)


SCHEMAS = [
    POINT,
    "{}",
    '{"enum": ["a", "ab", 1, 12]}',
    '{"type": "string", "pattern": "^ab?$"}',
    '{"type": "number", "multipleOf": 5, "maximum": 20}',  # llguidance notices its end one step late
    '{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}',
]


@pytest.mark.parametrize("schema", SCHEMAS)
@given(choices=st.lists(st.integers(0, 10_000), min_size=12, max_size=12))
@settings(max_examples=25, deadline=None)
def test_on_every_way_done_means_that_only_the_end_isallowed(
    compiler: GrammarCompiler, schema: str, choices: list[int]
) -> None:
    state = compiler.start(build_json_schema(schema))
    for choice in choices:
        allowed = allowed_ids(state)
        assert allowed
        assert allowed <= {*range(256), *EOS}
        assert state.done == (allowed <= set(EOS))
        if state.done:
            break
        state.consume([sorted(allowed)[choice % len(allowed)]])


def test_replaying_ids_gives_the_same_state(compiler: GrammarCompiler) -> None:
    grammar = build_json_schema(POINT)
    one_by_one, replayed = compiler.start(grammar), compiler.start(grammar)
    for byte in b'{"x":1':
        one_by_one.consume([byte])
    replayed.consume(b'{"x":1')
    assert allowed_ids(one_by_one) == allowed_ids(replayed)


def test_no_mask_allows_control_tokens_or_padding(compiler: GrammarCompiler) -> None:
    state = compiler.start(build_json_schema('{"type": "string"}'))
    for byte in b'"<|im_start|>\xc3\xa9':
        assert allowed_ids(state) <= set(range(256))
        state.consume([byte])


def test_a_token_outside_the_grammar_fails_its_own_row_only(compiler: GrammarCompiler) -> None:
    grammar = build_json_schema(POINT)
    good, bad = compiler.start(grammar), compiler.start(grammar)
    with pytest.raises(GrammarError, match="token 120 leaves the grammar"):
        bad.consume(b"x")
    assert bad.error
    assert not bad.done
    out = np.zeros((3, 9), dtype=np.int32)
    fill_masks([bad, None, good], out)
    assert (out[:2] == -1).all()
    assert allowed_ids(good) == {ord("{")}
    assert out[2].tolist() == [1 << 27 if word == 3 else 0 for word in range(9)]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON schema, an object; it is list"),
        (json.dumps({"description": "x" * 70_000}), "longer than 65536 bytes"),
        ('{"items":' * 100 + "{}" + "}" * 100, "nested deeper than 64"),
        ("[" * 30_000, "not JSON"),
        ('{"type": "integer", "maximum": 18446744073709551616}', "18446744073709551616 does not fit 64 bits"),
        ('{"enum": [12345678901234567890123]}', "12345678901234567890123 does not fit 64 bits"),
        ('{"type": "integer", "maximum": NaN}', "not JSON: NaN"),
        ('{"const": "\\ud83d"}', "not JSON: .*surrogates"),
        ('{"type": "foo"}', "json_schema: /type must be one or more of null, .*, not 'foo'"),
        ('{"$ref": "http://example.com/schema"}', "json_schema: /\\$ref 'http://example.com/schema' is in another doc"),
        ('{"type": "string", "pattern": "("}', "json_schema: /pattern cannot be enforced"),
    ],
)
def test_a_schema_that_is_none_is_refused_when_built(schema: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        build_json_schema(schema)


def _clauses(count: int) -> str:
    """Every clause multiplies the ways to satisfy all of them."""
    choice = [{"type": "object", "properties": {f"p{i}": {"const": i}}, "required": [f"p{i}"]} for i in range(count)]
    return json.dumps({"allOf": [{"anyOf": choice} for _ in range(count)]})


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "Unsatisfiable"),
        (_clauses(12), "schema too large"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused_with_the_reason(
    compiler: GrammarCompiler, schema: str, reason: str
) -> None:
    grammar = build_json_schema(schema)
    assert reason in compiler.check(grammar)
    with pytest.raises(GrammarError):
        compiler.start(grammar)


def test_a_good_grammar_is_not_refused(compiler: GrammarCompiler) -> None:
    assert compiler.check(build_json_schema(POINT)) == ""


@pytest.mark.parametrize(
    ("tools", "name", "reason"),
    [
        ([], "", "the session has no tools"),
        ([GREP], "sed", "no tool 'sed'; the session has grep"),
        ([Tool('a"b', "{}")], "", "must match"),
        ([Tool("a", "{")], "", "tool 'a': parameters_json: not JSON"),
        ([Tool("a", "7")], "", "must be a JSON schema"),
        ([Tool("a", '{"type": "string"}')], "", "tool 'a': parameters_json: /type allows no object"),
    ],
)
def test_tools_that_cannot_be_called_are_refused(tools: list[Tool], name: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        build_tool_call(tools, name, _wrapper("chatml"))
