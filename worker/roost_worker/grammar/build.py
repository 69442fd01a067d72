"""Builds grammars from JSON schemas and tools, as text that is sent to the engine (`compiler.py` compiles it). Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.normal_schema import normalize
from roost_worker.grammar.schema_text import load_schema
from roost_worker.grammar.tool_schema import tool_schema
from roost_worker.grammar.widening import widen
from roost_worker.render.formats.call_syntax import CallWrapper, Literal

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# One way to write each value: free whitespace would let a model fill its budget with blanks.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
# Models were trained on tool calls with the blanks of Python's json.dumps.
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


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
    return json.dumps({"grammars": [{"json_schema": _with_options(wide.schema, _COMPACT)}]})


def build_tool_call(tools: Sequence[NamedSchema], name: str, wrapper: CallWrapper) -> str:
    """Return the grammar of exactly one call, in the format's wrapper, of the tool `name`, or of any tool if empty.

    Raise GrammarError when there is no such tool or a tool's schema is refused.
    """
    chosen = [tool for tool in tools if not name or tool.name == name]
    if not chosen:
        known = ", ".join(tool.name for tool in tools)
        raise GrammarError(f"tool_choice: no tool {name!r}; the session has {known or 'no tools'}")
    calls = " | ".join(f"call_{index}" for index in range(len(chosen)))
    rules = [f"start: {_literal(wrapper.before_name)} ({calls}) {_literal(wrapper.after_arguments)}"]
    for index, tool in enumerate(chosen):
        before = _literal((_checked_name(tool.name), *wrapper.before_arguments))
        rules.append(f"call_{index}: {before} %json {_arguments(tool)}")
    return "\n".join(rules) + "\n"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise GrammarError(f"tool name {name!r} must match {_NAME.pattern}")
    return name


def _arguments(tool: NamedSchema) -> str:
    return json.dumps(_with_options(tool_schema(tool.name, tool.parameters_json).schema, _AS_TRAINED))


def _with_options(schema: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": {**schema.get("x-guidance", {}), **options}}


def _literal(parts: Literal) -> str:
    return " ".join(f"<[{part}]>" if isinstance(part, int) else json.dumps(part) for part in parts)
