"""SmolLM2: ChatML, and a list of calls in one wrapper: `<tool_call>[{"name", "arguments"}, …]</tool_call>`."""

from dataclasses import replace

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.chatml import CHATML, system_turn, turns
from roost_worker.render.formats.hermes import CLOSE, OPEN
from roost_worker.render.formats.turn_format import exact

_CALLS = CallSyntax(
    start=f"{OPEN}[\n",
    before_name='{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}",
    separator=",\n",
    end=f"\n]{CLOSE}",
    after_content="\n",
)
_TOOL_PROMPT = exact(
    "You are an expert in composing functions. You are given a question and a set of possible functions. "
    "Based on the question, you will need to make one or more function/tool calls to achieve the purpose. "
    "If none of the functions can be used, point it out and refuse to answer. "
    "If the given question lacks the parameters required by the function, also point it out.\n\n"
    "You have access to the following tools:\n<tools>{{ tools | tojson }}</tools>\n\n"
    "The output MUST strictly adhere to the following format, and NO other text MUST be included.\n"
    "The example format is as follows. Please make sure the parameter type is correct. "
    "If no function call is needed, please make the tool calls an empty list '[]'.\n"
    '<tool_call>[\n{"name": "func_name1", "arguments": {"argument1": "value1", "argument2": "value2"}},\n'
    "... (more tool calls as required)\n]</tool_call>"
)

SMOLLM2 = replace(
    CHATML,
    name="smollm2",
    turns=turns(system=system_turn(_TOOL_PROMPT), calls=_CALLS.jinja()),
    tool_prompt=_TOOL_PROMPT,
    calls=_CALLS,
    signs=("<repo_name>", "<file_sep>"),
    families=("SmolLM2",),
)
