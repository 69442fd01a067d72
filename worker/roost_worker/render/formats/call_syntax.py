"""How a format writes tool calls: one source for text, for the turn template and for the grammar. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Call(Protocol):
    """A tool's name, and the JSON text of its arguments."""

    @property
    def name(self) -> str: ...

    @property
    def arguments_json(self) -> str: ...


Literal = tuple[str | int, ...]
"""Text that a grammar forces; a number is the id of a control token."""


@dataclass(frozen=True, slots=True)
class CallWrapper:
    """What a grammar forces around the name and the arguments of a call, in one model's vocabulary."""

    before_name: Literal
    before_arguments: Literal
    after_arguments: Literal


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What stands around the name and the arguments of a call, and around several calls."""

    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str
    """Between two calls."""
    start: str = ""
    """Before the first call."""
    end: str = ""
    """After the last one."""
    after_content: str = ""
    """Between the text of a message and its calls."""
    id_after_name: str = ""
    """Jinja that writes `call.id` in turns, of formats that show ids."""
    id_after_arguments: str = ""
    """The same, behind the arguments."""

    def write(self, calls: Iterable[Call]) -> str:
        """Write calls so that the format's parser reads them back, with their arguments as they are."""
        return f"{self.start}{self.separator.join(map(self._write_call, calls))}{self.end}"

    def write_message(self, content: str, calls: Iterable[Call]) -> str:
        """Write a message's text and calls."""
        written = self.write(calls)
        return f"{content}{self.after_content}{written}" if content else written

    def wrapper(self, marks: Mapping[str, int]) -> CallWrapper:
        """Return what a grammar of one call forces. `marks` are control tokens and their ids."""
        return CallWrapper(
            _literal(self.start + self.before_name, marks),
            _literal(self.before_arguments, marks),
            _literal(self.after_arguments + self.end, marks),
        )

    def jinja(self) -> str:
        """Return the part of a turn template that writes the calls of `message`."""
        return (
            "{% if message.tool_calls %}"
            f"{{% if message.content %}}{jinja_text(self.after_content)}{{% endif %}}{jinja_text(self.start)}"
            "{% for call in message.tool_calls %}"
            f"{{% if not loop.first %}}{jinja_text(self.separator)}{{% endif %}}"
            f"{jinja_text(self.before_name)}{{{{ call.function.name }}}}{self.id_after_name}"
            f"{jinja_text(self.before_arguments)}{{{{ call.function.arguments | tojson }}}}{self.id_after_arguments}"
            f"{jinja_text(self.after_arguments)}"
            f"{{% endfor %}}{jinja_text(self.end)}"
            "{% endif %}"
        )

    def _write_call(self, call: Call) -> str:
        # Names are plain, but for those that older versions committed.
        name = json.dumps(call.name, ensure_ascii=False)[1:-1]
        arguments = call.arguments_json or "{}"
        return f"{self.before_name}{name}{self.before_arguments}{arguments}{self.after_arguments}"


def jinja_text(text: str) -> str:
    """Return Jinja that writes `text` exactly, whatever blocks stand beside it."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _literal(text: str, marks: Mapping[str, int]) -> Literal:
    pattern = "|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)"
    return tuple(marks.get(part, part) for part in re.split(f"({pattern})", text) if part)
