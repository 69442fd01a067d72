"""ChatML: turns between `<|im_start|>` and `<|im_end|>`, calls in Hermes' format (Qwen2.5, Hermes 2 and 3)."""

from roost_worker.render.formats import hermes
from roost_worker.render.formats.turn_format import TurnFormat, exact

TOKENS = ("<|im_start|>", "<|im_end|>")
TURN_ENDS = ("<|im_end|>",)
_RESULT = exact(
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ message.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
)


def system_turn(tool_prompt: str) -> str:
    """Return the Jinja of the first turn: the text `system`, if there is one, and the tools, if there are any."""
    return (
        exact(
            "{% if system or tools %}<|im_start|>system\n"
            "{% if system %}{{ system.content }}{% if tools %}\n\n{% endif %}{% endif %}{% if tools %}"
        )
        + tool_prompt
        + exact("{% endif %}<|im_end|>\n{% endif %}")
    )


def turns(*, system: str, calls: str, result: str = _RESULT) -> str:
    """Return the template of ChatML's turns. `calls` and `result` are the Jinja of a message's calls and a result."""
    return (
        "{% set system = messages[0] if messages[0].role == 'system' else none %}"
        + system
        + "{% for message in messages %}{% if message.role == 'tool' %}"
        + result
        + exact("{% elif message.role == 'assistant' %}<|im_start|>assistant\n{{ message.content }}")
        + calls
        + exact(
            "<|im_end|>\n"
            "{% elif message.role == 'user' or not loop.first %}"
            "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
            "{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
    )


CHATML = TurnFormat(
    name="chatml",
    turns=turns(system=system_turn(hermes.TOOL_PROMPT), calls=hermes.CALLS.jinja()),
    tool_prompt=hermes.TOOL_PROMPT,
    calls=hermes.CALLS,
    call_parser=hermes.parser,
    tokens=TOKENS,
    marks=hermes.MARKS,
    thinking=hermes.THINKING,
    turn_ends=TURN_ENDS,
    families=("Qwen2.5", "Hermes 2 and 3"),
)
