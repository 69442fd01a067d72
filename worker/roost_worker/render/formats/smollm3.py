"""SmolLM3: ChatML with thinking, in a vocabulary that is Llama 3's; its system text has sections.

Its own template takes `/think` and `/no_think` from the system text, too; here it always thinks.
"""

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
_SYSTEM = (
    exact(
        "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\n"
        "Today Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: /think\n\n"
        "## Custom Instructions\n\n{% if system %}{{ system.content }}{% else %}"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face.{% endif %}\n\n{% if tools %}"
    )
    + _TOOL_PROMPT
    + exact("\n\n{% endif %}<|im_end|>\n")
)
_RESULT = exact("<|im_start|>user\n{{ message.content }}<|im_end|>\n")

SMOLLM3 = replace(
    CHATML,
    name="smollm3",
    turns=turns(system=_SYSTEM, calls=hermes.CALLS.jinja(), result=_RESULT),
    tool_prompt=_TOOL_PROMPT,
    signs=("<|begin_of_text|>", "<think>", "</think>"),
    families=("SmolLM3",),
)
