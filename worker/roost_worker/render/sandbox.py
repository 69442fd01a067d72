"""Runs a chat template over placeholders, so that the template's own text can be distinguished from content.

Every string of the conversation is replaced by a placeholder, which is written as a sentinel of private-use characters.
The template's output is then cut at the sentinels into pieces of two kinds: literal text, in which control tokens are
recognised, and content, in which they are plain text. Output of `tojson` is content as a whole; the strings in it are
put back, escaped. Filters and tests see the content (`placeholders.py`), so that they do what they do in transformers.
"""

import json
import re
from collections.abc import Iterable, Sequence
from copy import copy
from datetime import date
from typing import Any, NoReturn, Self

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from roost_worker.render.dates import UNDATED
from roost_worker.render.errors import RenderError
from roost_worker.render.pieces import Piece
from roost_worker.render.placeholders import Placeholder

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_SENTINEL = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$.-]*")
_STRUCTURE = frozenset({"role", "type"})


class Written(str):
    """A string for templates that is put into their output as the pieces it was made of, whatever they do with it."""

    pieces: tuple[Piece, ...]

    def __new__(cls, pieces: Iterable[Piece]) -> Self:
        pieces = tuple(pieces)
        written = super().__new__(cls, "".join(piece.text for piece in pieces))
        written.pieces = pieces
        return written


class _Generation(Extension):
    """The tag `{% generation %}`, by which templates mark an assistant's text. It has no effect here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def chat_environment() -> jinja2.Environment:
    """Return a sandbox in which templates have what transformers gives them, but for the filter `tojson` and dates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    return environment


class ChatTemplate:
    """A compiled chat template. Raises RenderError when it is not valid Jinja."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        environment = chat_environment()
        environment.filters["tojson"] = _Run.tojson
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        self._day, self._blind = UNDATED, False
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise RenderError(f"the chat template is not valid Jinja: {error}") from error

    @property
    def blind(self) -> Self:
        """The same template, whose filters and tests see sentinels in place of content."""
        blind = copy(self)
        blind._blind = True
        return blind

    def on(self, day: date) -> Self:
        """Return the same template for sessions of another date, which `strftime_now` writes. It never asks a clock."""
        dated = copy(self)
        dated._day = day
        return dated

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None, *, generation_prompt: bool
    ) -> list[Piece]:
        """Render the conversation to pieces. Raise RenderError with the template's reason when it refuses."""
        run = _Run(self._blind)
        try:
            text = self._template.render(
                messages=[run.hide(message) for message in messages],
                tools=[run.hide(tool) for tool in tools] if tools else None,
                add_generation_prompt=generation_prompt,
                strftime_now=self._day.strftime,
                roost_run=run,
                **self._special,
            )
            return run.cut(text)
        except RenderError:
            raise
        except RecursionError as error:
            raise RenderError("the conversation holds JSON that is nested too deep") from error
        except Exception as error:  # a template's own code can raise anything
            raise RenderError(f"the chat template refuses: {error}") from error


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


class _Run:
    """The sentinels of one rendering."""

    def __init__(self, blind: bool) -> None:
        self._blind = blind
        self._contents: list[str] = []

    def hide(self, value: Any, key: str = "") -> Any:
        """Return a copy of `value` with sentinels for its strings, except roles and keys of plain characters."""
        match value:
            case Written():  # what a filter made of it would be without its pieces
                self._contents.append(value)
                return f"{_OPEN}{len(self._contents) - 1}{_CLOSE}"
            case str() if key in _STRUCTURE and _PLAIN_KEY.fullmatch(value):
                return value
            case str():
                return self._sentinel(value) if value else value
            case dict():
                return {self._key(name): self.hide(item, name) for name, item in value.items()}
            case list() | tuple():
                return [self.hide(item) for item in value]
        return value

    def _key(self, name: str) -> str:
        return name if _PLAIN_KEY.fullmatch(name) else self._sentinel(name)

    def _sentinel(self, content: str) -> str:
        self._contents.append(content)
        sentinel = f"{_OPEN}{len(self._contents) - 1}{_CLOSE}"
        return sentinel if self._blind else Placeholder(sentinel, content, self.hide)

    @staticmethod
    @jinja2.pass_context
    def tojson(
        context: jinja2.runtime.Context,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Implement the filter `tojson`, with the arguments that transformers gives it. Its output is content."""
        run: _Run = context["roost_run"]
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)

        def put_back(sentinel: re.Match[str]) -> str:
            return json.dumps(run._contents[int(sentinel[1])], ensure_ascii=ensure_ascii)[1:-1]

        return run._sentinel(_SENTINEL.sub(put_back, text))

    def cut(self, text: str) -> list[Piece]:
        """Cut the template's output at its sentinels. Raise RenderError when the template broke one."""
        pieces: list[Piece] = []
        for index, part in enumerate(_SENTINEL.split(text)):
            if index % 2 == 0 and (_OPEN in part or _CLOSE in part):
                raise RenderError("the chat template splits content")
            if index % 2:
                pieces += _pieces_of(self._contents[int(part)])
            elif part:
                pieces.append(Piece(part, False))
        return pieces


def _pieces_of(content: str) -> Sequence[Piece]:
    return content.pieces if isinstance(content, Written) else (Piece(content, True),)
