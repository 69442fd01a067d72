"""Llama 3.1 to 3.3: Llama 3's turns; a call is `{"name", "parameters"}`, recognised when the whole text is calls."""

from functools import partial

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.llama3 import TOKENS, turns
from roost_worker.render.formats.turn_format import TurnFormat, exact
from roost_worker.render.formats.whole_text import WholeTextParser

MARK = "<|python_tag|>"
_CALLS = CallSyntax(
    before_name='{"name": "',
    before_arguments='", "parameters": ',
    after_arguments="}",
    separator="; ",
    after_content="; ",
)
_TOOL_PROMPT = exact(
    "You have access to the following functions. To call a function, respond with JSON of the form "
    '{"name": function name, "parameters": dictionary of argument name and its value}. Do not use variables.'
    "{% for tool in tools %}\n\n{{ tool | tojson }}{% endfor %}"
)

LLAMA31 = TurnFormat(
    name="llama3.1",
    turns=turns(tool_prompt=_TOOL_PROMPT, calls=_CALLS.jinja()),
    tool_prompt=_TOOL_PROMPT,
    calls=_CALLS,
    call_parser=partial(
        WholeTextParser, key="parameters", mark=MARK, bracket="{", separators=";", text_before_mark=False
    ),
    tokens=TOKENS,
    signs=(MARK, "<|eom_id|>"),
    marks=(MARK,),
    turn_ends=("<|eot_id|>", "<|eom_id|>"),
    families=("Llama 3.1 to 3.3",),
)
