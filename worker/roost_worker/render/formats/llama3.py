"""Llama 3's format: `{"name", "parameters"}`, several separated by `;`, recognised when the whole text is calls."""

from roost_worker.render.formats.call_format import CallFormat
from roost_worker.render.formats.parser import CallParser, Turn
from roost_worker.render.formats.whole_text import WholeTextParser

MARK = "<|python_tag|>"


def _parser(turn: Turn) -> CallParser:
    return WholeTextParser(turn, key="parameters", mark=MARK, bracket="{", separators=";", levels=1)


LLAMA3 = CallFormat(
    parser_type=_parser,
    before_name='{"name": "',
    before_arguments='", "parameters": ',
    after_arguments="}",
    separator="; ",
)
