"""Hermes' calls, which several formats share: `<tool_call>{"name", "arguments"}</tool_call>` anywhere in the text."""

from functools import partial

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.parser import Thinking
from roost_worker.render.formats.turn_format import TurnFormat, exact
from roost_worker.render.formats.wrapped import WrappedParser, Wrapper

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINKING = Thinking("<think>", "</think>")
MARKS = (OPEN, CLOSE, THINKING.open, THINKING.close)
CALLS = CallSyntax(
    before_name=f'{OPEN}\n{{"name": "',
    before_arguments='", "arguments": ',
    after_arguments=f"}}\n{CLOSE}",
    separator="\n",
    after_content="\n",
)
parser = partial(WrappedParser, wrapper=Wrapper(OPEN, CLOSE), thinking=THINKING)
"""Builds a parser. A wrapper may also hold a list of calls, and `parameters` instead of `arguments`."""
TOOL_PROMPT = exact(
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

HERMES = TurnFormat(
    name="hermes",
    turns="",
    tool_prompt=TOOL_PROMPT,
    calls=CALLS,
    call_parser=parser,
    marks=MARKS,
    thinking=THINKING,
    families=("any other",),
)
"""For a model whose turns are not known: it must have a usable template of its own."""
