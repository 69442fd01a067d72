"""Turn-and-tool formats, one module each: what is written, forced by a grammar and parsed comes from one object."""

from roost_worker.render.formats.call_ids import CallIds, CallNamer
from roost_worker.render.formats.call_syntax import CallSyntax, CallWrapper
from roost_worker.render.formats.calls import WrittenCall
from roost_worker.render.formats.chatml import CHATML
from roost_worker.render.formats.deepseek_r1 import DEEPSEEK_R1
from roost_worker.render.formats.hermes import HERMES
from roost_worker.render.formats.llama3 import LLAMA3
from roost_worker.render.formats.llama31 import LLAMA31
from roost_worker.render.formats.mistral_v3 import MISTRAL_V3, MISTRAL_V3_TEKKEN
from roost_worker.render.formats.mistral_v7 import MISTRAL_V7, MISTRAL_V7_TEKKEN
from roost_worker.render.formats.mistral_v11 import MISTRAL_V11, MISTRAL_V13
from roost_worker.render.formats.parser import CallParser, ParsedText, Thinking, Turn
from roost_worker.render.formats.qwen3 import QWEN3
from roost_worker.render.formats.smollm2 import SMOLLM2
from roost_worker.render.formats.smollm3 import SMOLLM3
from roost_worker.render.formats.turn_format import TurnFormat

__all__ = [
    "CHATML",
    "FORMATS",
    "HERMES",
    "CallIds",
    "CallNamer",
    "CallParser",
    "CallSyntax",
    "CallWrapper",
    "ParsedText",
    "Thinking",
    "Turn",
    "TurnFormat",
    "WrittenCall",
    "format_named",
]

FORMATS = (
    DEEPSEEK_R1,
    MISTRAL_V11,
    MISTRAL_V13,
    MISTRAL_V7,
    MISTRAL_V7_TEKKEN,
    MISTRAL_V3,
    MISTRAL_V3_TEKKEN,
    SMOLLM3,
    QWEN3,
    SMOLLM2,
    CHATML,
    LLAMA31,
    LLAMA3,
    HERMES,
)
"""All formats. Of those that a vocabulary's tokens allow, an earlier one says more about the model."""


def format_named(name: str) -> TurnFormat:
    """Return the format of a name. Raise ValueError for an unknown one."""
    for known in FORMATS:
        if known.name == name:
            return known
    raise ValueError(f"the turn format {name!r} is unknown; use one of {', '.join(known.name for known in FORMATS)}")
