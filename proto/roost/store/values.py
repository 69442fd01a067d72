"""Messages, sampling and formats in the form in which a session's record keeps them. Pure.

Sampling and format are kept in protobuf's JSON form of `roost.v1` (a seed is a decimal string, for example), and a
step's content is recognised by a hash over its binary form. Records outlive a gateway's version, so neither may
change: a step sent again to a newer gateway would be taken for another one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from roost.contract.events import FinishReason, Part
from roost.contract.messages import Format, Message, MessageRole, Sampling, ToolCall
from roost.contract.steps import StepRequest
from roost.contract.why import Why
from roost.v1 import session_service_pb2 as pb
from roost.wire import format_from_wire, format_to_wire, message_to_wire, sampling_from_wire, sampling_to_wire
from roost.wire_parts import add_parts, parts_from_wire
from roost.wire_why import why_from_wire, why_to_wire

_FINISH_PREFIX = "FINISH_REASON_"


def message_to_record(message: Message) -> dict[str, Any]:
    record: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        record["tool_calls"] = tool_calls_to_record(message.tool_calls)
    if message.tool_call_id:
        record["tool_call_id"] = message.tool_call_id
    if message.name:
        record["name"] = message.name
    return record


def message_from_record(record: Mapping[str, Any]) -> Message:
    """Passes over fields that are not the message's, such as those of a step's output."""
    return Message(
        role=MessageRole(record["role"]),
        content=record["content"],
        tool_calls=tuple(
            ToolCall(call["id"], call["name"], call["arguments"]) for call in record.get("tool_calls", ())
        ),
        tool_call_id=record.get("tool_call_id", ""),
        name=record.get("name", ""),
    )


def tool_calls_to_record(calls: Iterable[ToolCall]) -> list[dict[str, str]]:
    return [{"id": call.id, "name": call.name, "arguments": call.arguments_json} for call in calls]


def parts_to_record(parts: Iterable[Part]) -> list[dict[str, Any]]:
    delta = pb.StepDelta()
    add_parts(delta, parts)
    return [MessageToDict(part, preserving_proto_field_name=True) for part in delta.parts]


def parts_from_record(record: Iterable[Mapping[str, Any]]) -> tuple[Part, ...]:
    return parts_from_wire(ParseDict(dict(part), pb.OutputPart()) for part in record)


def sampling_to_record(sampling: Sampling) -> dict[str, Any]:
    return MessageToDict(sampling_to_wire(sampling), preserving_proto_field_name=True)


def sampling_from_record(record: Mapping[str, Any]) -> Sampling:
    return sampling_from_wire(ParseDict(dict(record), pb.Sampling()))


def format_to_record(constraint: Format | None) -> dict[str, Any] | None:
    if constraint is None:
        return None
    return MessageToDict(format_to_wire(constraint), preserving_proto_field_name=True)


def format_from_record(record: Mapping[str, Any] | None) -> Format | None:
    return None if record is None else format_from_wire(ParseDict(dict(record), pb.Format()))


def finish_reason_to_record(reason: FinishReason | None) -> str:
    return _FINISH_PREFIX + (reason.name if reason else "UNSPECIFIED")


def finish_reason_from_record(record: str) -> FinishReason | None:
    """None for a reason that this version does not know."""
    return FinishReason.__members__.get(record.removeprefix(_FINISH_PREFIX))


def why_to_record(why: Why) -> bytes:
    """In protobuf's binary form, since every step has one: at most 300 bytes."""
    return why_to_wire(why).SerializeToString()


def why_from_record(record: bytes | None) -> Why | None:
    """None for a step of a gateway that noted no reasons."""
    return None if record is None else why_from_wire(pb.StepWhy.FromString(record))


def content_digest(request: StepRequest) -> bytes:
    """16-byte hash of what makes a step: messages, sampling and format, but not what a retry may change."""
    content = pb.StepRequest(
        messages=map(message_to_wire, request.messages),
        sampling=sampling_to_wire(request.sampling),
        format=None if request.format is None else format_to_wire(request.format),
    )
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16, person=b"roost.step").digest()
