"""Built-in turn formats, one Jinja template per family: prefix-stable, with tools, without default system text.

They replace a model's own template when that is not prefix-stable or drops messages (probing.py). They write turns as
the families' published chat templates do (SmolLM2, Qwen3, Llama 3.1, Mistral v0.3).
"""

_HERMES_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

_CHATML = (
    "{% set system = messages[0] if messages[0].role == 'system' else none %}"
    "{% if system or tools %}<|im_start|>system\n"
    "{% if system %}{{ system.content }}{% if tools %}\n\n{% endif %}{% endif %}"
    "{% if tools %}" + _HERMES_TOOLS + "{% endif %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ message.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% elif message.role == 'assistant' %}<|im_start|>assistant\n{{ message.content }}"
    "{% for call in message.tool_calls %}"
    "{% if message.content or not loop.first %}\n{% endif %}"
    '<tool_call>\n{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif message.role == 'user' or not loop.first %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}"
    "{% macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{% endmacro %}"
    "{% set system = messages[0] if messages[0].role == 'system' else none %}"
    "{% if system or tools %}{{ header('system') }}"
    "{% if system %}{{ system.content }}{% if tools %}\n\n{% endif %}{% endif %}"
    "{% if tools %}You have access to the following functions. To call a function, respond with JSON of the form "
    '{"name": function name, "parameters": dictionary of argument name and its value}. Do not use variables.'
    "{% for tool in tools %}\n\n{{ tool | tojson }}{% endfor %}{% endif %}<|eot_id|>{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ header('ipython') }}{{ message.content }}<|eot_id|>"
    "{% elif message.role == 'assistant' %}{{ header('assistant') }}{{ message.content }}"
    "{% for call in message.tool_calls %}"
    "{% if message.content or not loop.first %}; {% endif %}"
    '{"name": {{ call.function.name | tojson }}, "parameters": {{ call.function.arguments | tojson }}}'
    "{% endfor %}<|eot_id|>"
    "{% elif message.role == 'user' or not loop.first %}"
    "{{ header(message.role) }}{{ message.content }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ header('assistant') }}{% endif %}"
)

_MISTRAL = (
    "{{ bos_token }}"
    "{% set system = messages[0] if messages[0].role == 'system' else none %}"
    "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' or (message.role == 'system' and not loop.first) %}[INST] "
    "{% if system and loop.index0 == 1 %}{{ system.content }}\n\n{% endif %}{{ message.content }}[/INST]"
    "{% elif message.role == 'tool' %}"
    '[TOOL_RESULTS] {"content": {{ message.content | tojson }}, "call_id": {{ message.tool_call_id | tojson }}}'
    "[/TOOL_RESULTS]"
    "{% elif message.role == 'assistant' %}"
    "{% if message.content %} {{ message.content }}{% endif %}"
    "{% if message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}"
    '{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}, '
    '"id": {{ call.id | tojson }}}{% if not loop.last %}, {% endif %}{% endfor %}]{% endif %}{{ eos_token }}'
    "{% endif %}{% endfor %}"
)


def _exact(template: str) -> str:
    # Chat templates run with trim_blocks, which removes a newline that follows a block.
    return template.replace("\n", "{{ '\\n' }}")


BUILT_IN = {
    "chatml": _exact(_CHATML),
    "qwen3": _exact(_CHATML),
    "llama3": _exact(_LLAMA3),
    "mistral": _exact(_MISTRAL),
}
"""Each family's template. Qwen3's turns are ChatML's; only its own template's handling of thinking differs."""

HERMES_TOOL_PROMPT = _exact(_HERMES_TOOLS)
"""Tools as system text, for a template that ignores `tools`."""

CONTROL_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen3": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[AVAILABLE_TOOLS]"),
}
"""Tokens that the family's built-in turn format requires of a tokenizer."""
