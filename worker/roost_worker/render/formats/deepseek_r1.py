"""DeepSeek-R1 and its distills: thinking first, calls as fenced JSON between marks of their own.

Their own template removes the thinking of earlier turns; here a pool's `thinking: drop` does.
"""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.
import re
from functools import partial

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.hermes import THINKING
from roost_worker.render.formats.turn_format import TurnFormat, exact
from roost_worker.render.formats.wrapped import WrappedParser, Wrapper

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_OPEN, _SEPARATOR, _CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_HEADER = re.compile(
    rf"[ \n]*(?:function{_SEPARATOR})?(?P<name>[^\s<{{`]+)(?:{_SEPARATOR})?[ \n]*(?:```(?:json)?)?[ \n]*(?P<id>)"
)
_CALLS = CallSyntax(
    start=_BEGIN,
    before_name=f"{_OPEN}function{_SEPARATOR}",
    before_arguments="\n```json\n",
    after_arguments=f"\n```{_CLOSE}",
    separator="\n",
    end=_END,
)
_TOOL_PROMPT = exact(
    "## Tools\n\nYou may call these functions:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n\n"
    f"To call one, write its name and a JSON object of arguments in this form:\n{_BEGIN}{_OPEN}function{_SEPARATOR}"
    f"name\n```json\n{{}}\n```{_CLOSE}{_END}"
)
_TURNS = (
    exact(
        "{{ bos_token }}"
        "{% set system = messages[0] if messages[0].role == 'system' else none %}"
        "{% if system %}{{ system.content }}{% if tools %}\n\n{% endif %}{% endif %}{% if tools %}"
    )
    + _TOOL_PROMPT
    + exact(
        "{% endif %}{% for message in messages %}"
        "{% set before = messages[loop.index0 - 1].role if not loop.first else '' %}"
        "{% if message.role == 'tool' %}"
        "{% if before != 'tool' %}<｜tool▁outputs▁begin｜>{% else %}\n{% endif %}"
        "<｜tool▁output▁begin｜>{{ message.content }}<｜tool▁output▁end｜>"
        "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<｜tool▁outputs▁end｜>{% endif %}"
        "{% elif message.role == 'assistant' %}"
        "{% if before != 'tool' %}<｜Assistant｜>{% endif %}{{ message.content }}"
    )
    + _CALLS.jinja()
    + exact(
        "{{ eos_token }}"
        "{% elif message.role == 'user' or not loop.first %}<｜User｜>{{ message.content }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'tool' %}<｜Assistant｜><think>\n{% endif %}"
    )
)

DEEPSEEK_R1 = TurnFormat(
    name="deepseek-r1",
    turns=_TURNS,
    tool_prompt=_TOOL_PROMPT,
    calls=_CALLS,
    call_parser=partial(
        WrappedParser, wrapper=Wrapper(_OPEN, _CLOSE, header=_HEADER, around=(_BEGIN, _END)), thinking=THINKING
    ),
    tokens=("<｜User｜>", "<｜Assistant｜>"),
    marks=(_BEGIN, _END, _OPEN, _SEPARATOR, _CLOSE, THINKING.open, THINKING.close),
    thinking=THINKING,
    turn_ends=("<｜end▁of▁sentence｜>",),
    families=("DeepSeek-R1-Distill (Llama, Qwen)",),
)
