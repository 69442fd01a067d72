"""Tool-call formats by family: what is written in a format and what is read from it come from one module."""

from roost_worker.render.formats.call_format import CallFormat
from roost_worker.render.formats.calls import WrittenCall
from roost_worker.render.formats.hermes import HERMES
from roost_worker.render.formats.llama3 import LLAMA3
from roost_worker.render.formats.mistral import MISTRAL
from roost_worker.render.formats.parser import CallParser, ParsedText, Turn

__all__ = ["CallFormat", "CallParser", "ParsedText", "Turn", "WrittenCall", "format_of"]

_FORMATS = {"chatml": HERMES, "qwen3": HERMES, "llama3": LLAMA3, "mistral": MISTRAL}


def format_of(family: str) -> CallFormat:
    """Return the tool-call format of a family (`TemplateDescription.family`); of an unknown one, Hermes'."""
    return _FORMATS.get(family, HERMES)
