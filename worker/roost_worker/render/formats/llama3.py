"""Llama 3: turns with headers. Its models and their templates know no tools, so that calls are asked for as Hermes'."""

from roost_worker.render.formats import hermes
from roost_worker.render.formats.turn_format import TurnFormat, exact

TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def turns(*, tool_prompt: str, calls: str) -> str:
    """Return the template of Llama 3's turns. `calls` is the Jinja that writes a message's calls."""
    return (
        exact(
            "{{ bos_token }}"
            "{% macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{% endmacro %}"
            "{% set system = messages[0] if messages[0].role == 'system' else none %}"
            "{% if system or tools %}{{ header('system') }}"
            "{% if system %}{{ system.content }}{% if tools %}\n\n{% endif %}{% endif %}{% if tools %}"
        )
        + tool_prompt
        + exact(
            "{% endif %}<|eot_id|>{% endif %}"
            "{% for message in messages %}"
            "{% if message.role == 'tool' %}{{ header('ipython') }}{{ message.content }}<|eot_id|>"
            "{% elif message.role == 'assistant' %}{{ header('assistant') }}{{ message.content }}"
        )
        + calls
        + exact(
            "<|eot_id|>"
            "{% elif message.role == 'user' or not loop.first %}"
            "{{ header(message.role) }}{{ message.content }}<|eot_id|>"
            "{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ header('assistant') }}{% endif %}"
        )
    )


LLAMA3 = TurnFormat(
    name="llama3",
    turns=turns(tool_prompt=hermes.TOOL_PROMPT, calls=hermes.CALLS.jinja()),
    tool_prompt=hermes.TOOL_PROMPT,
    calls=hermes.CALLS,
    call_parser=hermes.parser,
    tokens=TOKENS,
    marks=hermes.MARKS,
    thinking=hermes.THINKING,
    turn_ends=("<|eot_id|>",),
    families=("Llama 3",),
)
