"""Builds grammars from JSON schemas and tools, as text that is sent to the engine (`compiler.py` compiles it). Pure."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.normal_schema import normalize
from roost_worker.grammar.schema_text import load_schema
from roost_worker.grammar.tool_schema import ToolSchema, tool_schema, with_options
from roost_worker.grammar.widening import widen
from roost_worker.render.formats.call_syntax import CallWrapper, Literal

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
# One way to write each value: free whitespace would let a model fill its budget with blanks.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class NamedSchema(Protocol):
    """A tool: its name, and the JSON schema of its arguments as text."""

    @property
    def name(self) -> str: ...

    @property
    def parameters_json(self) -> str: ...


def build_json_schema(schema: str) -> str:
    """Return the grammar of JSON text, without optional whitespace, that satisfies `schema` (JSON text).

    Raise GrammarError naming the keyword when the schema is not valid or cannot be enforced. What is too large or
    allows nothing is refused when the grammar is compiled (`GrammarCompiler.check`).
    """
    document = load_schema(schema, "json_schema")
    if isinstance(document, bool):
        raise GrammarError(f"json_schema: must be a JSON schema, an object; it is {type(document).__name__}")
    wide = widen(normalize(document, "json_schema"))
    if wide.dropped:
        raise GrammarError(f"json_schema: {wide.dropped[0]} cannot be enforced; use a simpler schema")
    return json.dumps({"grammars": [{"json_schema": with_options(wide.schema, _COMPACT)}]})


def build_tool_call(
    tools: Sequence[NamedSchema],
    name: str,
    wrapper: CallWrapper,
    schema_of: Callable[[str, str], ToolSchema] = tool_schema,
) -> str:
    """Return the grammar of exactly one call, in the format's wrapper, of the tool `name`, or of any tool if empty.

    `schema_of` is called with each tool's name and parameters_json; clients' schemas take long to read, and are read in
    compile processes (`CompilePool.tool_schema`). Raise GrammarError when there is no such tool or what `schema_of`
    raises.
    """
    chosen = [tool for tool in tools if not name or tool.name == name]
    if not chosen:
        known = ", ".join(tool.name for tool in tools)
        raise GrammarError(f"tool_choice: no tool {name!r}; the session has {known or 'no tools'}")
    calls = " | ".join(f"call_{index}" for index in range(len(chosen)))
    rules = [f"start: {_literal(wrapper.before_name)} ({calls}) {_literal(wrapper.after_arguments)}"]
    for index, tool in enumerate(chosen):
        before = _literal((_checked_name(tool.name), *wrapper.before_arguments))
        rules.append(f"call_{index}: {before} %json {schema_of(tool.name, tool.parameters_json).text}")
    return "\n".join(rules) + "\n"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise GrammarError(f"tool name {name!r} must match {_NAME.pattern}")
    return name


def _literal(parts: Literal) -> str:
    return " ".join(f"<[{part}]>" if isinstance(part, int) else json.dumps(part) for part in parts)
