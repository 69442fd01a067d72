"""Mistral's format (v3): `[TOOL_CALLS] [{"name", "arguments"}, …]`, recognised when the whole text is calls.

The mark is a control token of most vocabularies, and then not in the text.
"""

from roost_worker.render.formats.call_format import CallFormat
from roost_worker.render.formats.parser import CallParser, Turn
from roost_worker.render.formats.whole_text import WholeTextParser

MARK = "[TOOL_CALLS]"


def _parser(turn: Turn) -> CallParser:
    return WholeTextParser(turn, key="arguments", mark=MARK, bracket="[", separators="", levels=2)


MISTRAL = CallFormat(
    parser_type=_parser,
    before_name='{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}",
    separator=", ",
    start="[",
    end="]",
)
