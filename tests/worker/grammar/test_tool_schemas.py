"""A grammar enforces its schema, or the closest one above it, and says which keyword it leaves out."""

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grammars import Tool, accepts, dummy_compiler
from hostile_requests import schemas
from roost_worker.grammar import GrammarCompiler, GrammarError, build_json_schema, build_tool_call, tool_schema
from roost_worker.grammar.arguments import violation
from roost_worker.render.formats import format_named

CORPUS = json.loads((Path(__file__).parent / "schema_corpus.json").read_text())
WRAPPER = format_named("llama3.1").calls.wrapper({})


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return dummy_compiler(tmp_path_factory.mktemp("store"))


def _grammar(schema: Any) -> str:
    return build_tool_call([Tool("t", json.dumps(schema))], "t", WRAPPER)


def _call(arguments: str) -> str:
    return f'{{"name": "t", "parameters": {arguments}}}'


def _takes(compiler: GrammarCompiler, schema: Any, arguments: Any) -> bool:
    return accepts(compiler, _grammar(schema), _call(json.dumps(arguments, ensure_ascii=False)))


@pytest.mark.parametrize("case", CORPUS, ids=[case["name"] for case in CORPUS])
def test_a_schema_is_enforced_or_allows_more_and_says_so(compiler: GrammarCompiler, case: dict[str, Any]) -> None:
    schema, text = case["schema"], json.dumps(case["schema"])
    tool = tool_schema("t", text)
    assert (tool.keyword, tool.constrained) == (case.get("dropped", ""), "dropped" not in case)
    for arguments in case["valid"]:
        assert _takes(compiler, schema, arguments), arguments
        assert violation(text, json.dumps(arguments)) is None, arguments
    for arguments in case["invalid"]:
        assert not (tool.constrained and _takes(compiler, schema, arguments)), arguments
        assert not isinstance(arguments, dict) or violation(text, json.dumps(arguments)), arguments
    invalid = [arguments for arguments in case["invalid"] if _takes(compiler, schema, arguments)]
    assert tool.constrained == (invalid == [])


def test_any_call_can_be_required_beside_a_tool_that_cannot_be_enforced(compiler: GrammarCompiler) -> None:
    tools = [Tool(f"t{number}", json.dumps(case["schema"])) for number, case in enumerate(CORPUS)]
    grammar = build_tool_call(tools, "", WRAPPER)
    for number, case in enumerate(CORPUS):
        call = json.dumps({"name": f"t{number}", "parameters": case["valid"][0]}, ensure_ascii=False)
        assert accepts(compiler, grammar, call), case["name"]


KEYS = ["a", "b", "xa", "x-y"]
VALUES = st.sampled_from([None, True, 0, 2, 1.5, "", "a", "ab", "x1", [], [1], ["a", "a"], {}, {"a": 1}, {"b": "x"}])
DOCUMENTS = st.dictionaries(st.sampled_from([*KEYS, "c"]), VALUES, max_size=3)
LEAVES = st.sampled_from(
    [True, False, {}, {"type": "string"}, {"type": ["integer", "null"]}, {"const": "a"}, {"enum": [1, "ab", None]}]
)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    count, several = st.integers(0, 3), st.lists(inner, min_size=1, max_size=3)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(["object", "array", "string", "integer", ["object", "null"]]),
        "properties": st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        "patternProperties": st.dictionaries(st.sampled_from(["^x", "^xa$", "a", "^b", "^(?!a)"]), inner, max_size=2),
        "required": st.lists(st.sampled_from(KEYS), unique=True, max_size=2),
        "propertyNames": st.sampled_from([{"type": "string"}, {"pattern": "^[a-z]$"}, {"enum": ["a", "b"]}]),
        "dependentRequired": st.just({"a": ["b"]}),
        "pattern": st.sampled_from(["^a", "b$", "^(?!ab)", r"\bx"]),
        "enum": st.lists(VALUES, min_size=1, max_size=4),
        "const": VALUES,
        "uniqueItems": st.booleans(),
        "nullable": st.booleans(),
        "prefixItems": several,
        "minimum": st.sampled_from([0, 1.5]),
        **dict.fromkeys(("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength"), count),
        **dict.fromkeys(("additionalProperties", "items", "contains", "not", "if", "then", "else"), inner),
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), several),
    }
    return st.fixed_dictionaries({}, optional=keywords).map(lambda schema: dict(itertools.islice(schema.items(), 6)))


@given(st.recursive(LEAVES, _schemas, max_leaves=8), st.lists(DOCUMENTS, min_size=3, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_the_schema_nothing_valid_is_refused_and_what_is_constrained_is_valid(
    compiler: GrammarCompiler, schema: Any, documents: list[dict[str, Any]]
) -> None:
    text = json.dumps(schema)
    try:
        tool, grammar = tool_schema("t", text), _grammar(schema)
    except GrammarError:
        assert all(violation(text, json.dumps(document)) for document in documents)
        return
    refusal = compiler.check(grammar)
    for document in documents:
        takes = not refusal and any(accepts(compiler, grammar, _call(written)) for written in _written(document))
        is_valid = violation(text, json.dumps(document)) is None
        if refusal:
            assert not is_valid or "Unsatisfiable" not in refusal
        else:
            assert takes or not is_valid, document
            assert is_valid or not takes or not tool.constrained, document


def _written(document: dict[str, Any]) -> Iterator[str]:
    """A document with its keys in each order, since a grammar has them in its schema's."""
    for items in itertools.permutations(document.items()):
        yield json.dumps(dict(items))


@given(schemas())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    assert _refusal(partial(tool_schema, "t"), text).startswith(("tool 't': parameters_json: ", "none"))
    assert _refusal(build_json_schema, text).startswith(("json_schema: ", "none"))


def _refusal(build: Callable[[str], object], text: str) -> str:
    try:
        build(text)
    except GrammarError as error:
        return str(error)
    return "none"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "the schema `false` allows no arguments"),
        ({"type": "string"}, "/type allows no object, but a call's arguments are one"),
        ({"type": ["array", "null"]}, "/type allows no object"),
        ({"const": 1}, "/const allows no object"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"const": 1}}}, "/$defs/n/const allows no object"),
        ({"enum": ["a", None]}, "/enum allows no object"),
        (
            {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {"const": 3}}},
            "/anyOf allows no object",
        ),
        ({"type": "strin"}, "/type must be one or more of null, boolean, integer, number, string, array, object"),
        ({"properties": {"a": {"type": []}}}, "/properties/a/type must be one or more of"),
        ({"properties": {"a/b": {"minLength": -1}}}, "/properties/a~1b/minLength must be a whole number of at least 0"),
        ({"properties": []}, "/properties must be an object of schemas"),
        ({"properties": {"a": 3}}, "/properties/a must be a schema: an object, true or false"),
        ({"anyOf": []}, "/anyOf must be a list of schemas"),
        (
            {"dependencies": {"a": ["b"]}, "dependentRequired": 3},
            "/dependentRequired must be an object of lists of names, not '3'",
        ),
        ({"dependencies": {"a": {}}, "dependentSchemas": []}, "/dependentSchemas must be an object of schemas"),
        ({"required": ["a", 3]}, "/required must be a list of names"),
        ({"properties": {"a": {"multipleOf": 0}}}, "/properties/a/multipleOf must be a number above 0"),
        ({"properties": {"a": {"pattern": 3}}}, "/properties/a/pattern must be text"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "/properties/a/$ref '#/$defs/b' points to nothing"),
        ({"$ref": "https://roost.example/s.json"}, "'https://roost.example/s.json' is in another document"),
        ({"$ref": "#"}, "/ refers to itself without an end"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}},
            },
            "refers to itself without an end",
        ),
    ],
)
def test_what_no_arguments_satisfy_is_refused_with_tool_field_and_keyword(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError) as refused:
        tool_schema("t", json.dumps(schema))
    assert str(refused.value).startswith("tool 't': parameters_json: ")
    assert reason in str(refused.value)


def test_a_schema_that_its_references_multiply_is_refused() -> None:
    schema: dict[str, Any] = {"anyOf": [{}] * 4000}
    for _ in range(25):
        schema = {"properties": {"p": schema}}
    schema["anyOf"] = [{"$ref": "#" + "/properties/p" * level} for level in range(1, 25)]
    with pytest.raises(GrammarError, match="holds more than 25000 schemas"):
        tool_schema("t", json.dumps(schema))


def test_schemas_that_take_long_to_tell_apart_count_as_overlapping() -> None:
    nodes = {
        f"n{number}": {
            "type": "object",
            "required": [f"k{key}" for key in range(60)],
            "properties": {f"k{key}": {"$ref": f"#/$defs/n{(number + key) % 6}"} for key in range(60)},
        }
        for number in range(6)
    }
    options = [{"$ref": f"#/$defs/{name}"} for name in nodes]
    assert tool_schema("t", json.dumps({"oneOf": options, "$defs": nodes})).keyword == "/oneOf"


ALIASES = [
    {"properties": {"x": {"type": "integer"}}},
    {"properties": {"x": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"properties": {"x": {"type": "integer"}}, "patternProperties": {"^y": {"type": "string"}}},
    {"required": ["x"], "properties": {}},
    {"allOf": [{"properties": {"x": {"type": "integer"}}}, {"properties": {"z": {}}}]},
    {"additionalProperties": True, "const": {"x": 1}, "required": ["x"]},
]


@pytest.mark.parametrize("schema", ALIASES, ids=json.dumps)
def test_a_named_key_is_not_written_again_with_escapes(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    schema = {"type": "object", **schema}
    for grammar, call in ((_grammar(schema), _call), (build_json_schema(json.dumps(schema)), lambda text: text)):
        assert accepts(compiler, grammar, call('{"x": 1}' if call is _call else '{"x":1}'))
        for repeated in ("x", "\\u0078"):
            written = f'{{"x": 1, "{repeated}": "s"}}'
            assert not accepts(compiler, grammar, call(written if call is _call else written.replace(" ", "")))


@pytest.mark.parametrize("schema", ALIASES, ids=json.dumps)
def test_nor_is_one_of_an_inner_object(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    outer = {"properties": {"n": {"type": "object", **schema}}, "additionalProperties": {}}
    assert _takes(compiler, outer, {"n": {"x": 1}})
    assert not accepts(compiler, _grammar(outer), _call('{"n": {"x": 1, "\\u0078": "s"}}'))


def test_control_characters_can_be_written_beside_named_keys(compiler: GrammarCompiler) -> None:
    assert _takes(compiler, {"properties": {"x": {"type": "string"}}}, {"x": "\x1b[0m", "\x01": "\x00"})


def test_an_unenforceable_step_format_is_refused_with_its_keyword() -> None:
    with pytest.raises(GrammarError, match=r"json_schema: /properties/a/not cannot be enforced"):
        build_json_schema('{"properties": {"a": {"not": {"type": "string"}}}}')


def test_nullable_counts_in_step_formats_too(compiler: GrammarCompiler) -> None:
    grammar = build_json_schema('{"type": "integer", "nullable": true}')
    assert [accepts(compiler, grammar, text) for text in ("1", "null", '"a"')] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"a": "x", "b": {"c": 1}}, None),
        ({"a": "old"}, "$.a: 'old' does not match"),
        ({"a": "x", "b": {"c": "s"}}, "$.b.c: 's' is not of type 'integer'"),
        ({"a": "x", "b": {"d": 1}}, "$.b: Additional properties are not allowed"),
        ({}, "$: 'a' is a required property"),
    ],
)
def test_arguments_that_break_a_schema_say_where(arguments: Any, reason: str | None) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "^(?!old)", "nullable": True},
            "b": {"properties": {"c": {"type": "integer"}}, "additionalProperties": False},
        },
        "required": ["a"],
    }
    fault = violation(json.dumps(schema), json.dumps(arguments))
    assert fault is None if reason is None else fault is not None and fault.startswith(reason)


def test_digits_and_letters_in_patterns_are_ascii() -> None:
    schema = {
        "properties": {"a": {"pattern": r"^(?!0)\d$"}, "b": {"pattern": r"^(?!0)\w$"}},
        "patternProperties": {r"^\d": {"type": "string"}, "^[0-9]": {"maxLength": 2}, "^(?!0)[^ab]": {"not": {}}},
    }
    text = json.dumps(schema)
    assert violation(text, '{"a": "7", "b": "e"}') is None
    for arguments in ({"a": "\u0663"}, {"b": "\u00e9"}, {"0": 1}, {"0": "abc"}):
        assert violation(text, json.dumps(arguments)), arguments


def test_patterns_that_python_does_not_read_are_left_to_the_grammar() -> None:
    schema = {
        "properties": {"a": {"pattern": r"^\p{L}+$", "maxLength": 3}},
        "patternProperties": {r"^\p{N}": {"type": "string"}},
        "additionalProperties": False,
    }
    assert violation(json.dumps(schema), '{"a": "??", "1": 1}') is None
    assert violation(json.dumps(schema), '{"a": "????"}') == "$.a: '????' is too long"
