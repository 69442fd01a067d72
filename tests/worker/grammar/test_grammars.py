"""Grammars allow exactly the JSON that a schema or a tool asks for; what is too much is refused with a reason."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammars import EOS, Tool, accepts, allowed_ids, dummy_compiler
from roost_worker.grammar import (
    GrammarCompiler,
    GrammarError,
    build_json_schema,
    build_tool_call,
    fill_masks,
)

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
    "qwen3": '<tool_call>\n{"name": "grep", "arguments": {"limit": 3}}\n</tool_call>',
    "llama3": '{"name": "grep", "parameters": {"limit": 3}}',
    "mistral": '[{"name": "grep", "arguments": {"limit": 3}}]',
}


@pytest.mark.parametrize("family", WRITTEN)
def test_a_tool_call_is_written_in_the_familys_wrapper(compiler: GrammarCompiler, family: str) -> None:
    any_tool = build_tool_call([LIST, GREP], "", family)
    assert accepts(compiler, any_tool, WRITTEN[family])
    assert accepts(compiler, build_tool_call([LIST, GREP], "grep", family), WRITTEN[family])
    assert not accepts(compiler, build_tool_call([LIST, GREP], "list-files", family), WRITTEN[family])
    assert not accepts(compiler, any_tool, WRITTEN[family].replace('"limit"', '"other"'))
    assert not accepts(compiler, any_tool, WRITTEN[family].replace("grep", "rm"))


@pytest.mark.parametrize("family", WRITTEN)
def test_a_call_that_the_grammar_allows_is_parsed(family: str) -> None:
    from roost_worker.render.formats import Turn, WrittenCall, format_of

    assert format_of(family).write([WrittenCall("grep", '{"limit": 3}')]) == WRITTEN[family]
    parsed = format_of(family).parse(WRITTEN[family], Turn({"grep"}, constrained=True))
    assert parsed.content == ""
    assert [(call.name, json.loads(call.arguments_json)) for call in parsed.calls] == [("grep", {"limit": 3})]


def test_a_tool_without_schema_takes_an_object(compiler: GrammarCompiler) -> None:
    grammar = build_tool_call([LIST], "", "llama3")
    assert accepts(compiler, grammar, '{"name": "list-files", "parameters": {"a": 1}}')
    assert not accepts(compiler, grammar, '{"name": "list-files", "parameters": 1}')


def test_done_as_soon_as_nothing_may_follow(compiler: GrammarCompiler) -> None:
    state = compiler.start(build_json_schema(POINT))
    state.consume(b'{"x":1')
    assert not state.done
    state.consume(b"}")
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
        build_tool_call(tools, name, "chatml")
