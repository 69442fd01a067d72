"""The parts of a step's output: how they are counted, cut and put together. Pure.

A place among the parts of an output is a number of *units* from its start: each character (Unicode code point) of text,
reasoning and arguments is one unit, and so is the beginning of a call.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.contract.messages import ToolCall


class PartLog:
    """The parts of one output, in order. Nothing is ever taken back."""

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self._parts: list[Part] = []
        self._ends: list[int] = []
        self.extend(parts)

    @property
    def size(self) -> int:
        """Units of all parts."""
        return self._ends[-1] if self._ends else 0

    def extend(self, parts: Iterable[Part]) -> None:
        end = self.size
        for part in parts:
            size = units(part)
            if size:
                end += size
                self._parts.append(part)
                self._ends.append(end)

    def after(self, offset: int) -> tuple[Part, ...]:
        """Everything after the first `offset` units, as few parts as possible."""
        first = bisect_right(self._ends, offset)
        begin = self._ends[first - 1] if first else 0
        parts = cut(self._parts[first:], offset - begin)
        return joined(parts) if len(parts) > 1 else tuple(parts)


def units(part: Part) -> int:
    """How many units a part has."""
    return 1 if isinstance(part, CallPart) else len(part.text)


def cut(parts: Sequence[Part], count: int) -> list[Part]:
    """The parts without their first `count` units."""
    if count <= 0:
        return list(parts)
    for number, part in enumerate(parts):
        size = units(part)
        if count < size:
            rest = part if not count or isinstance(part, CallPart) else replace(part, text=part.text[count:])
            return [rest, *parts[number + 1 :]]
        count -= size
    return []


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same parts, with neighbours of one kind put together and without empty ones."""
    runs: list[list[Part]] = []
    for part in parts:
        if not units(part):
            continue
        if runs and _continues(part, runs[-1][0]):
            runs[-1].append(part)
        else:
            runs.append([part])
    return tuple(_together(run) for run in runs)


def begins_with(parts: Iterable[Part], beginning: Iterable[Part]) -> bool:
    """Whether an output that was written as `beginning` may have gone on as `parts`, however both are cut."""
    whole, begin = joined(parts), joined(beginning)
    if not begin or whole[: len(begin)] == begin:
        return True
    if len(whole) < len(begin) or whole[: len(begin) - 1] != begin[:-1]:
        return False
    last, grown = begin[-1], whole[len(begin) - 1]
    if isinstance(last, CallPart) or isinstance(grown, CallPart):
        return False
    return _continues(grown, last) and grown.text.startswith(last.text)


def _continues(part: Part, first: Part) -> bool:
    if isinstance(part, ArgumentsPart):
        return isinstance(first, ArgumentsPart) and first.index == part.index
    return not isinstance(part, CallPart) and type(part) is type(first)


def _together(run: list[Part]) -> Part:
    first = run[0]
    if len(run) == 1 or isinstance(first, CallPart):
        return first
    return replace(first, text="".join(part.text for part in run if not isinstance(part, CallPart)))


def parts_of_message(content: str, reasoning: str, calls: Iterable[ToolCall]) -> tuple[Part, ...]:
    """A whole message as parts, in the order in which models mostly write: reasoning, text, calls."""
    parts: list[Part] = [ReasoningPart(reasoning), TextPart(content)]
    for index, call in enumerate(calls):
        parts += (CallPart(index, call.id, call.name), ArgumentsPart(index, call.arguments_json))
    return joined(parts)
