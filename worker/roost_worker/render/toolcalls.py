"""Parses and writes tool calls in a family's own format. What is not a well-formed call stays text. Pure."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from roost_worker.render.messages import ToolCall

_HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_LLAMA3_START = re.compile(r"\s*(?:<\|python_tag\|>)?\s*")
_MISTRAL_START = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*(?=\[)")
_DECODER = json.JSONDecoder()


def parse(text: str, family: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the text without its tool calls, and the calls, with ids `call_0`, `call_1`, … in order.

    ChatML, Qwen and unknown families use Hermes' format (`<tool_call>{"name", "arguments"}</tool_call>`). Llama 3's
    (`{"name", "parameters"}`, several separated by `;`) and Mistral's (`[TOOL_CALLS] [{"name", "arguments"}]`) are
    recognised only when the whole text is calls.
    """
    match family:
        case "llama3":
            calls = _whole_llama3(text)
        case "mistral":
            calls = _whole_mistral(text)
        case _:
            return _hermes(text)
    return ("", calls) if calls else (text, ())


def write_calls(calls: Sequence[ToolCall], family: str) -> str:
    """Write calls in the family's format, so that `parse` reads them back."""
    documents = [json.dumps(_document(call, family), ensure_ascii=False) for call in calls]
    match family:
        case "llama3":
            return "; ".join(documents)
        case "mistral":
            return f"[{', '.join(documents)}]"
    return "\n".join(f"<tool_call>\n{document}\n</tool_call>" for document in documents)


def _document(call: ToolCall, family: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except ValueError:
        arguments = call.arguments_json
    return {"name": call.name, "parameters" if family == "llama3" else "arguments": arguments}


def _hermes(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    calls: list[ToolCall] = []
    kept: list[str] = []
    end = 0
    for match in _HERMES.finditer(text):
        call = _call(_loads(match[1]), "arguments", len(calls))
        if call is not None:
            calls.append(call)
            kept.append(text[end : match.start()])
            end = match.end()
    kept.append(text[end:])
    return ("".join(kept).strip(), tuple(calls)) if calls else (text, ())


def _whole_llama3(text: str) -> tuple[ToolCall, ...]:
    start = _LLAMA3_START.match(text)
    return _calls(_objects(text[start.end() if start else 0 :]), "parameters")


def _objects(text: str) -> Iterator[Any]:
    """Yield JSON values separated by `;` or blanks; end with None where the text is something else."""
    while text:
        try:
            value, end = _DECODER.raw_decode(text)
        except ValueError:
            yield None
            return
        yield value
        text = text[end:].lstrip("; \n\t\r")


def _whole_mistral(text: str) -> tuple[ToolCall, ...]:
    start = _MISTRAL_START.match(text)
    values = _loads(text[start.end() :].strip()) if start else None
    return _calls(iter(values), "arguments") if isinstance(values, list) else ()


def _calls(values: Iterator[Any], key: str) -> tuple[ToolCall, ...]:
    calls = [_call(value, key, index) for index, value in enumerate(values)]
    return tuple(call for call in calls if call is not None) if None not in calls else ()


def _call(value: Any, key: str, index: int) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get(key, {})
    if not isinstance(arguments, dict):
        return None
    return ToolCall(f"call_{index}", value["name"], json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
