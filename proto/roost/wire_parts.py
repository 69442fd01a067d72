"""The parts of an output: between the contract's values and `roost.v1` messages. Pure."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.v1 import session_service_pb2 as pb

if TYPE_CHECKING:
    from roost.v1 import worker_service_pb2 as worker_pb


def add_parts(delta: "pb.StepDelta | worker_pb.Delta", parts: Iterable[Part]) -> None:
    """Appends parts to a delta, in place: a message that is put into another one would be copied."""
    for part in parts:
        if isinstance(part, TextPart):
            delta.parts.add(text=part.text)
        elif isinstance(part, ReasoningPart):
            delta.parts.add(reasoning=part.text)
        elif isinstance(part, CallPart):
            call = delta.parts.add().call
            call.index, call.id, call.name = part.index, part.id, part.name
        else:
            arguments = delta.parts.add().arguments
            arguments.index, arguments.text = part.index, part.text


def parts_from_wire(wire: Iterable[pb.OutputPart]) -> tuple[Part, ...]:
    """Parts of a kind that this version does not know are left out."""
    return tuple([part for part in map(_part_from_wire, wire) if part is not None])


def _part_from_wire(wire: pb.OutputPart) -> Part | None:
    match wire.WhichOneof("part"):
        case "text":
            return TextPart(wire.text)
        case "reasoning":
            return ReasoningPart(wire.reasoning)
        case "call":
            return CallPart(wire.call.index, wire.call.id, wire.call.name)
        case "arguments":
            return ArgumentsPart(wire.arguments.index, wire.arguments.text)
    return None
