"""Five formats of Mistral's, each written as its models were trained on it: the texts are those of their templates."""

import pytest

import family_models
from roost_worker.render.formats import format_named
from roost_worker.render.messages import Message, Tool, ToolCall

CALL = ToolCall("abc123xyz", "grep", '{"q": 1}')
HISTORY = [
    Message("user", "Hi."),
    Message("assistant", "", (CALL, CALL)),
    Message("tool", "7", tool_call_id="abc123xyz", name="grep"),
    Message("assistant", "Seven."),
    Message("user", "Bye."),
]
TOOL = '{"type": "function", "function": {"name": "grep", "description": "", "parameters": {}}}'
OBJECT = '{"name": "grep", "arguments": {"q": 1}, "id": "abc123xyz"}'
WRITTEN = {
    "mistral-v3": (
        f"[AVAILABLE_TOOLS] [{TOOL}][/AVAILABLE_TOOLS][INST] Be kind.\n\nHi.[/INST]"
        f"[TOOL_CALLS] [{OBJECT}, {OBJECT}]</s>"
        '[TOOL_RESULTS] {"content": "7", "call_id": "abc123xyz"}[/TOOL_RESULTS] Seven.</s>[INST] Bye.[/INST]'
    ),
    "mistral-v3-tekken": (
        f"[AVAILABLE_TOOLS][{TOOL}][/AVAILABLE_TOOLS][INST]Be kind.\n\nHi.[/INST][TOOL_CALLS][{OBJECT}, {OBJECT}]</s>"
        '[TOOL_RESULTS]{"content": "7", "call_id": "abc123xyz"}[/TOOL_RESULTS]Seven.</s>[INST]Bye.[/INST]'
    ),
    "mistral-v7": (
        f"[SYSTEM_PROMPT] Be kind.[/SYSTEM_PROMPT][AVAILABLE_TOOLS] [{TOOL}][/AVAILABLE_TOOLS][INST] Hi.[/INST]"
        f"[TOOL_CALLS] [{OBJECT}, {OBJECT}]</s>[TOOL_RESULTS]abc123xyz[TOOL_CONTENT]7[/TOOL_RESULTS]"
        " Seven.</s>[INST] Bye.[/INST]"
    ),
    "mistral-v7-tekken": (
        f"[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{TOOL}][/AVAILABLE_TOOLS][INST]Hi.[/INST]"
        f"[TOOL_CALLS][{OBJECT}, {OBJECT}]</s>[TOOL_RESULTS]abc123xyz[TOOL_CONTENT]7[/TOOL_RESULTS]"
        "Seven.</s>[INST]Bye.[/INST]"
    ),
    "mistral-v11": (
        f"[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{TOOL}][/AVAILABLE_TOOLS][INST]Hi.[/INST]"
        + '[TOOL_CALLS]grep[CALL_ID]abc123xyz[ARGS]{"q": 1}' * 2
        + "</s>[TOOL_RESULTS]abc123xyz[TOOL_CONTENT]7[/TOOL_RESULTS]Seven.</s>[INST]Bye.[/INST]"
    ),
    "mistral-v13": (
        f"[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{TOOL}][/AVAILABLE_TOOLS][INST]Hi.[/INST]"
        + '[TOOL_CALLS]grep[ARGS]{"q": 1}' * 2
        + "</s>[TOOL_RESULTS]7[/TOOL_RESULTS]Seven.</s>[INST]Bye.[/INST]"
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_version_writes_its_own_marks_and_blanks(name: str) -> None:
    renderer = family_models.built_in_renderer(format_named(name), special_marks=True)
    pieces = renderer.step_pieces(system="Be kind.", tools=[Tool("grep")], messages=HISTORY)
    assert "".join(piece.text for piece in pieces) == WRITTEN[name]
