"""The parts of an output: between the contract's values and `roost.v1` messages. Pure."""

from collections.abc import Iterable

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.v1 import session_service_pb2 as pb


def parts_to_wire(parts: Iterable[Part]) -> list[pb.OutputPart]:
    return [_part_to_wire(part) for part in parts]


def _part_to_wire(part: Part) -> pb.OutputPart:
    if isinstance(part, TextPart):
        return pb.OutputPart(text=part.text)
    if isinstance(part, ReasoningPart):
        return pb.OutputPart(reasoning=part.text)
    if isinstance(part, CallPart):
        return pb.OutputPart(call=pb.OutputPart.Call(index=part.index, id=part.id, name=part.name))
    return pb.OutputPart(arguments=pb.OutputPart.Arguments(index=part.index, text=part.text))


def parts_from_wire(wire: Iterable[pb.OutputPart]) -> tuple[Part, ...]:
    """Parts of a kind that this version does not know are left out."""
    return tuple(part for part in map(_part_from_wire, wire) if part is not None)


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
