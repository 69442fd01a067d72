"""SmolLM3: ChatML with thinking, in a vocabulary that is Llama 3's; its system text shows tools in its own words."""

from dataclasses import replace

from roost_worker.render.formats import hermes
from roost_worker.render.formats.chatml import CHATML, turns
from roost_worker.render.formats.turn_format import exact

_TOOL_PROMPT = exact(
    "### Tools\n\nYou may call one or more functions to assist with the user query.\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n\n<tools>\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

SMOLLM3 = replace(
    CHATML,
    name="smollm3",
    turns=turns(tool_prompt=_TOOL_PROMPT, calls=hermes.CALLS.jinja()),
    tool_prompt=_TOOL_PROMPT,
    signs=("<|begin_of_text|>", "<think>", "</think>"),
)
