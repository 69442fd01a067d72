"""The hash chain of a conversation: one link per unit, from a root that tenant, pool, system text and tools give.

Equal hashes are equal histories of one tenant. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

from roost.contract.messages import Message
from roost_gateway.recognition.canonical import DIGEST_BYTES, Unit, digest_of, output_unit, units
from roost_gateway.recognition.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a history, as two hashes."""

    own: bytes
    """Within the conversation's family; equal to `wide` when the conversation has no family."""
    wide: bytes
    """Within the tenant."""

    def then(self, digests: Iterable[bytes]) -> Self:
        """The point after units with these digests."""
        point = self
        for digest in digests:
            own = _link(point.own, digest)
            point = type(self)(own, own if point.own == point.wide else _link(point.wide, digest))
        return point


@dataclass(frozen=True, slots=True)
class Boundary:
    """A point at which a step may have been committed: the assistant does not go on there."""

    point: Point
    units: int
    """Units before it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The points of a cleaned conversation."""

    units: Sequence[Unit]
    boundaries: tuple[Boundary, ...]
    """Oldest first, without the end of the conversation."""
    end: Point
    units_before: int = 0
    """Units of the history before the conversation's first message."""

    @property
    def has_turns(self) -> bool:
        """Whether the assistant has spoken."""
        return self.units_before > 0 or any(unit.is_turn for unit in self.units)

    def messages_of(self, count: int) -> int:
        """How many of the conversation's messages are among the first `count` units of the history. Raises IndexError
        when there are fewer units."""
        own = count - self.units_before
        return self.units[own - 1].messages if own > 0 else 0

    def after(self, output: Message) -> Boundary:
        """The boundary after the output of the step for which the conversation asks."""
        digest = output_unit(output)
        if digest is None:
            return Boundary(self.end, self.units_before + len(self.units))
        return Boundary(self.end.then([digest]), self.units_before + len(self.units) + 1)


def root(conversation: Conversation, tenant: str, pool: str) -> Point:
    """The point before the first message of a cleaned conversation."""
    tools = (text for tool in conversation.tools for text in (tool.name, tool.description, tool.parameters_json))
    wide = tenant_digest(tenant, "root", pool, conversation.role, conversation.system, *tools)
    own = tenant_digest(tenant, "family", wide, conversation.family) if conversation.family else wide
    return Point(own, wide)


def tenant_digest(tenant: str, *parts: str | bytes) -> bytes:
    """A digest that no other tenant's can be equal to."""
    key = blake2b(tenant.encode(), digest_size=32, person=b"roost.tenant").digest()
    return blake2b(digest_of(*parts), digest_size=DIGEST_BYTES, key=key, person=b"roost.root").digest()


def chain(messages: Sequence[Message], start: Point, units_before: int = 0) -> Chain:
    """The chain of a cleaned conversation's messages, which follow `units_before` units up to the point `start`. Its
    cost is linear in the text."""
    formed, point, boundaries = units(messages), start, list[Boundary]()
    for place, unit in enumerate(formed):
        if (place and not unit.is_turn) or (units_before and not place):
            boundaries.append(Boundary(point, units_before + place))
        point = point.then([unit.digest])
    return Chain(formed, tuple(boundaries), point, units_before)


def _link(before: bytes, digest: bytes) -> bytes:
    return blake2b(before + digest, digest_size=DIGEST_BYTES, person=b"roost.chain").digest()
