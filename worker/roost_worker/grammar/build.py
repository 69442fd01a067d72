"""Builds grammars from JSON schemas and tools, as text that is sent to the engine (`compiler.py` compiles it). Pure."""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from roost_worker.render.formats.call_syntax import CallWrapper, Literal

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# One way to write each value: free whitespace would let a model fill its budget with blanks.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
# Models were trained on tool calls with the blanks of Python's json.dumps.
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarError(ValueError):
    """A schema or grammar is refused, or output does not match its grammar. The message says why."""


class NamedSchema(Protocol):
    """A tool: its name, and the JSON schema of its arguments as text."""

    @property
    def name(self) -> str: ...

    @property
    def parameters_json(self) -> str: ...


def build_json_schema(schema: str) -> str:
    """Return the grammar of JSON text, without optional whitespace, that satisfies `schema` (JSON text).

    Raise GrammarError when the schema is not a JSON object, longer than `MAX_SCHEMA_BYTES` or deeper than `MAX_DEPTH`.
    What llguidance does not support is refused when the grammar is compiled (`GrammarCompiler.check`).
    """
    document = _load(schema, "json_schema")
    return json.dumps({"grammars": [{"json_schema": {**document, "x-guidance": _COMPACT}}]})


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
    document = _load(tool.parameters_json or "{}", f"tool {tool.name!r}: parameters_json")
    if "type" not in document and not {"$ref", "anyOf", "oneOf", "allOf", "const", "enum"} & set(document):
        document["type"] = "object"
    return json.dumps({**document, "x-guidance": _AS_TRAINED})


def _literal(parts: Literal) -> str:
    return " ".join(f"<[{part}]>" if isinstance(part, int) else json.dumps(part) for part in parts)


def _load(schema: str, what: str) -> dict[str, Any]:
    if len(schema.encode(errors="replace")) > MAX_SCHEMA_BYTES:
        raise GrammarError(f"{what}: longer than {MAX_SCHEMA_BYTES} bytes; use a smaller schema")
    try:
        document = json.loads(schema, parse_int=_integer)
    except OverflowError as error:
        raise GrammarError(f"{what}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{what}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise GrammarError(f"{what}: must be a JSON schema, an object; it is {type(document).__name__}")
    if _depth(document) > MAX_DEPTH:
        raise GrammarError(f"{what}: nested deeper than {MAX_DEPTH} levels; use $defs and $ref")
    return document


def _integer(digits: str) -> int:
    """Raise OverflowError for an integer that llguidance would round to a float."""
    value = int(digits)
    if not -(2**63) <= value < 2**64:
        raise OverflowError(f"the integer {digits[:40]} does not fit 64 bits")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [item for parent in level for item in _children(parent)]
    return depth


def _children(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return []
