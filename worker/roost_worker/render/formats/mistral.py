"""What the formats of Mistral's models share: `[INST]` turns, which begin with tools that never move. Pure."""

from collections.abc import Callable
from functools import partial

from roost_worker.render.formats.call_ids import MISTRAL
from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.parser import CallParser, Thinking, Turn
from roost_worker.render.formats.turn_format import TurnFormat, exact
from roost_worker.render.formats.whole_text import WholeTextParser

CALLS_MARK = "[TOOL_CALLS]"
TOKENS = ("[INST]", "[/INST]", CALLS_MARK, "[TOOL_RESULTS]", "[AVAILABLE_TOOLS]")
SYSTEM_TOKENS = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
CONTENT_MARK = "[TOOL_CONTENT]"
RESULT_WITH_ID = f"[TOOL_RESULTS]{{{{ message.tool_call_id }}}}{CONTENT_MARK}{{{{ message.content }}}}[/TOOL_RESULTS]"


def mistral_format(
    name: str,
    *,
    families: tuple[str, ...],
    calls: CallSyntax,
    result: str,
    blank: str = "",
    system_turn: bool = True,
    signs: tuple[str, ...] = (),
    call_parser: Callable[[Turn], CallParser] | None = None,
    marks: tuple[str, ...] = (CALLS_MARK,),
    thinking: Thinking | None = None,
) -> TurnFormat:
    """Return a format of Mistral's. `result` is the Jinja of a tool's result, `blank` follows most opening marks.

    System text has a turn of its own, or else stands in the first turn. Without a parser calls are a list of objects.
    """
    tool_prompt = f"[AVAILABLE_TOOLS]{blank}{{{{ tools | tojson }}}}[/AVAILABLE_TOOLS]"
    return TurnFormat(
        name=name,
        turns=_turns(tool_prompt=tool_prompt, calls=calls.jinja(), result=result, blank=blank, system_turn=system_turn),
        tool_prompt=tool_prompt,
        calls=calls,
        call_parser=call_parser
        or partial(
            WholeTextParser, key="arguments", mark=CALLS_MARK, bracket="[", separators="", text_before_mark=True
        ),
        tokens=TOKENS,
        signs=(*(SYSTEM_TOKENS if system_turn else ()), *signs),
        marks=marks,
        thinking=thinking,
        turn_ends=("</s>",),
        call_ids=MISTRAL,
        families=families,
    )


def list_of_calls(blank: str) -> CallSyntax:
    """Return the syntax `[TOOL_CALLS] [{"name", "arguments"}, …]`."""
    return CallSyntax(
        start=f"{CALLS_MARK}{blank}[",
        before_name='{"name": "',
        before_arguments='", "arguments": ',
        after_arguments="}",
        separator=", ",
        end="]",
        id_after_arguments=', "id": "{id}"',
    )


def _turns(*, tool_prompt: str, calls: str, result: str, blank: str, system_turn: bool) -> str:
    own_turn = f"{{% if system %}}[SYSTEM_PROMPT]{blank}{{{{ system.content }}}}[/SYSTEM_PROMPT]{{% endif %}}"
    in_first_turn = "{% if system and loop.index0 == 1 %}{{ system.content }}\n\n{% endif %}"
    without_first_turn = (
        "{% if system and messages[1].role not in ('user', 'system') %}"
        f"[INST]{blank}{{{{ system.content }}}}[/INST]{{% endif %}}"
    )
    return exact(
        "{{ bos_token }}"
        "{% set system = messages[0] if messages[0].role == 'system' else none %}"
        f"{own_turn if system_turn else ''}{{% if tools %}}{tool_prompt}{{% endif %}}"
        f"{'' if system_turn else without_first_turn}"
        "{% for message in messages %}"
        "{% if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
        f"[INST]{blank}{'' if system_turn else in_first_turn}{{{{ message.content }}}}[/INST]"
        f"{{% elif message.role == 'tool' %}}{result}"
        "{% elif message.role == 'assistant' %}"
        f"{{% if message.content %}}{blank}{{{{ message.content }}}}{{% endif %}}"
        f"{calls}{{{{ eos_token }}}}"
        "{% endif %}{% endfor %}"
    )
