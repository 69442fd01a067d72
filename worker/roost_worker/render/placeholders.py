"""Placeholders for content in a chat template: written as a mark, asked like the content itself. Pure."""

from collections.abc import Callable, Iterator
from typing import Any, Self

Hide = Callable[[Any], Any]
"""Returns a value in which each string is a placeholder; strings may stand in lists."""

_OPAQUE = frozenset({"encode", "format", "format_map", "join", "maketrans"})
"""Methods of `str` that see the mark: their results hold it, as those of `+`, or, for `encode`, are not text."""


class Placeholder(str):
    """The mark of a content in what a template writes, and, in all that a template can ask or derive, the content.

    So `trim`, `in`, `==`, `split`, `length` and slices do what they do with the content, and what they derive from it
    is a placeholder again: no part of the content becomes text of the template.
    """

    __slots__ = ("_hide", "_text")  # a template cannot read attributes that begin with an underscore
    _text: str
    _hide: Hide

    def __new__(cls, mark: str, text: str, hide: Hide) -> Self:
        placeholder = super().__new__(cls, mark)
        placeholder._text, placeholder._hide = text, hide
        return placeholder

    def __str__(self) -> str:
        return self  # the conversion that filters begin with must not lead to the mark

    def __eq__(self, other: object) -> bool:
        return bool(self._text == _text_of(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._text)

    def __iter__(self) -> Iterator[str]:
        return iter(self._hide(list(self._text)))


def _text_of(value: Any) -> Any:
    return value._text if isinstance(value, Placeholder) else value


def _answering(name: str) -> Callable[..., Any]:
    """Return the method `name` of the text, whose strings in the result are placeholders."""
    method = getattr(str, name)

    def answer(self: Placeholder, *arguments: Any, **named: Any) -> Any:
        result = method(self._text, *map(_text_of, arguments), **{key: _text_of(value) for key, value in named.items()})
        return self._hide(result)

    return answer


for _name in (name for name in dir(str) if not name.startswith("_") and name not in _OPAQUE):
    setattr(Placeholder, _name, _answering(_name))
for _name in ("__contains__", "__getitem__", "__len__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Placeholder, _name, _answering(_name))
