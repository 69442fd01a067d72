"""Reads one JSON object or array as it comes, strictly by RFC 8259 and in one pass. Pure."""

import re
from enum import Enum

MAX_DEPTH = 256
"""Deeper values are refused: common JSON readers recurse, and would fail on them."""

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_CHARACTERS = re.compile(r'[^"\\\x00-\x1f]*')
# Surrogates come in pairs only.
_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_ESCAPE_BEGUN = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)?"
)


class _State(Enum):
    """What the scanner is in, or what it expects next, in words for a message."""

    VALUE = "a value"
    FIRST_VALUE = "a value or ']'"
    KEY = "a key"
    FIRST_KEY = "a key or '}'"
    COLON = "':'"
    NEXT = "',' or a closing bracket"
    STRING = "a string's end"
    WORD = "a number's end"


_VALUES = (_State.VALUE, _State.FIRST_VALUE)
_KEYS = (_State.KEY, _State.FIRST_KEY)
_MAY_CLOSE = (_State.FIRST_VALUE, _State.FIRST_KEY, _State.NEXT)


def skip_space(text: str, at: int) -> int:
    """Return the position after JSON's blanks at `at`."""
    return _run(_SPACE, text, at)


class JsonScanner:
    """Checks one object or array, given in chunks. `done` at its end, `error` says why it is not JSON."""

    def __init__(self) -> None:
        self.done = False
        self.error = ""
        self._state = _State.VALUE
        self._closers: list[str] = []
        self._in_key = False
        self._word: list[str] = []

    @property
    def depth(self) -> int:
        """How many objects and arrays are open."""
        return len(self._closers)

    def scan(self, text: str, at: int, level: int | None = None) -> int:
        """Read `text` from `at` on; return the position after the value, or of what breaks it.

        With a `level` stop early, too: after the bracket that opens or closes an object or array in a value of that
        depth.

        When more text is needed it is the end of `text`, or the start of an escape sequence that is cut off there
        (at most 11 characters), with which the next text must begin.
        """
        while at < len(text) and not self.done and not self.error:
            before, depth = at, len(self._closers)
            at = self._step(text, at)
            if at == before or (len(self._closers) != depth and level == min(depth, len(self._closers))):
                break
        return at

    def _step(self, text: str, at: int) -> int:
        match self._state:
            case _State.STRING:
                return self._string(text, at)
            case _State.WORD:
                return self._scalar(text, at)
        return self._structure(text, at)

    def _string(self, text: str, at: int) -> int:
        at = _run(_CHARACTERS, text, at)
        if at == len(text):
            return at
        if text[at] == '"':
            self._state = _State.COLON if self._in_key else _State.NEXT
            return at + 1
        if text[at] != "\\":
            self.error = f"the control character {text[at]!r} stands in a string"
        elif escape := _ESCAPE.match(text, at):
            return escape.end()
        elif not _ESCAPE_BEGUN.fullmatch(text, at):
            self.error = "a string holds an invalid escape or half of a surrogate pair"
        return at

    def _scalar(self, text: str, at: int) -> int:
        end = _run(_WORD, text, at)
        self._word.append(text[at:end])
        if end == len(text):
            return end
        word = "".join(self._word)
        self._word.clear()
        if not _SCALAR.fullmatch(word):
            self.error = f"{word[:40]} is not a JSON value"
            return end
        self._state = _State.NEXT
        return self._structure(text, end)

    def _structure(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at == len(text):
            return at
        character, state = text[at], self._state
        if character == '"' and state in (*_VALUES, *_KEYS):
            self._state, self._in_key = _State.STRING, state in _KEYS
        elif character in "{[" and state in _VALUES:
            self._open(character)
        elif state in _MAY_CLOSE and character == self._closers[-1]:
            self._close()
        elif character == ":" and state is _State.COLON:
            self._state = _State.VALUE
        elif character == "," and state is _State.NEXT:
            self._state = _State.KEY if self._closers[-1] == "}" else _State.VALUE
        elif state in _VALUES and _run(_WORD, text, at) > at:
            self._state = _State.WORD
            return self._scalar(text, at)
        else:
            self.error = f"{character!r} stands where {state.value} must be"
        return at if self.error else at + 1

    def _open(self, bracket: str) -> None:
        if len(self._closers) == MAX_DEPTH:
            self.error = f"it is nested deeper than {MAX_DEPTH} levels"
        self._closers.append("}" if bracket == "{" else "]")
        self._state = _State.FIRST_KEY if bracket == "{" else _State.FIRST_VALUE

    def _close(self) -> None:
        self._closers.pop()
        self._state, self.done = _State.NEXT, not self._closers


def _run(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
