"""Mistral's formats from v11 on: a call is `[TOOL_CALLS]name[ARGS]{…}`, whose marks are control tokens.

v11 writes `[CALL_ID]` and the id between them; v13 does without ids, and knows thinking. Both parsers read both.
"""

import re
from functools import partial

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.mistral import CALLS_MARK, RESULT_WITH_ID, mistral_format
from roost_worker.render.formats.parser import Thinking
from roost_worker.render.formats.wrapped import WrappedParser, Wrapper

_ARGUMENTS_MARK, _ID_MARK = "[ARGS]", "[CALL_ID]"
_THINKING = Thinking("[THINK]", "[/THINK]")
_HEADER = re.compile(r"[ \n]*(?P<name>[^\s\[\]{}]+)(?:\[CALL_ID\](?P<id>[^\s\[\]{}]+))?(?:\[ARGS\])?[ \n]*")


def _syntax(id_after_name: str) -> CallSyntax:
    return CallSyntax(
        before_name=CALLS_MARK,
        before_arguments=_ARGUMENTS_MARK,
        after_arguments="",
        separator="",
        id_after_name=id_after_name,
    )


_PARSER = partial(WrappedParser, wrapper=Wrapper(CALLS_MARK, header=_HEADER), thinking=_THINKING)
_MARKS = (CALLS_MARK, _ID_MARK, _ARGUMENTS_MARK, _THINKING.open, _THINKING.close)

MISTRAL_V11 = mistral_format(
    "mistral-v11",
    families=("Mistral Small 3.2",),
    calls=_syntax(f"{_ID_MARK}{{id}}"),
    result=RESULT_WITH_ID,
    signs=(_ARGUMENTS_MARK, _ID_MARK),
    call_parser=_PARSER,
    marks=_MARKS,
    thinking=_THINKING,
)
MISTRAL_V13 = mistral_format(
    "mistral-v13",
    families=("Magistral 1.2", "Ministral 3"),
    calls=_syntax(""),
    result="[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]",
    signs=(_ARGUMENTS_MARK,),
    call_parser=_PARSER,
    marks=_MARKS,
    thinking=_THINKING,
)
