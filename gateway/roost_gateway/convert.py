"""Between what the store keeps and what the contract says. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from roost.contract.heads import AttemptRef, Head
from roost.contract.pool_document import PoolDocument
from roost.store.records import Descriptor, LogEntry, State
from roost.v1 import session_service_pb2 as pb

_ROLES = {
    pb.MESSAGE_ROLE_SYSTEM: "system",
    pb.MESSAGE_ROLE_USER: "user",
    pb.MESSAGE_ROLE_ASSISTANT: "assistant",
    pb.MESSAGE_ROLE_TOOL: "tool",
}
_ROLE_VALUES = {name: value for value, name in _ROLES.items()}
_STATES = {State.ACTIVE: pb.SESSION_STATE_ACTIVE, State.CLOSED: pb.SESSION_STATE_CLOSED}


def head_to_proto(head: Head, generation: int = 0) -> pb.Head:
    """A client is told the generation; a worker knows it from elsewhere."""
    return pb.Head(length=head.length, log_hash=head.log_hash, generation=generation)


def head_from_proto(head: pb.Head) -> Head:
    return Head(head.length, head.log_hash)


def attempt_to_proto(ref: AttemptRef) -> pb.Attempt:
    return pb.Attempt(epoch=ref.epoch, nonce=ref.nonce)


def attempt_from_proto(attempt: pb.Attempt) -> AttemptRef:
    return AttemptRef(attempt.epoch, attempt.nonce)


def message_to_record(message: pb.Message) -> dict[str, Any]:
    record: dict[str, Any] = {"role": _ROLES[message.role], "content": message.content}
    if message.tool_calls:
        record["tool_calls"] = tool_calls_to_record(message.tool_calls)
    if message.tool_call_id:
        record["tool_call_id"] = message.tool_call_id
    if message.name:
        record["name"] = message.name
    return record


def message_to_proto(record: Mapping[str, Any]) -> pb.Message:
    return pb.Message(
        role=_ROLE_VALUES[record["role"]],
        content=record["content"],
        tool_calls=[tool_call_to_proto(call) for call in record.get("tool_calls", ())],
        tool_call_id=record.get("tool_call_id", ""),
        name=record.get("name", ""),
    )


def tool_calls_to_record(calls: Iterable[pb.ToolCall]) -> list[dict[str, str]]:
    return [{"id": call.id, "name": call.name, "arguments": call.arguments_json} for call in calls]


def tool_call_to_proto(record: Mapping[str, str]) -> pb.ToolCall:
    return pb.ToolCall(id=record["id"], name=record["name"], arguments_json=record["arguments"])


def tool_to_record(tool: pb.Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters_json}


def tool_to_proto(record: Mapping[str, Any]) -> pb.Tool:
    return pb.Tool(name=record["name"], description=record["description"], parameters_json=record["parameters"])


def sampling_to_record(sampling: pb.Sampling) -> dict[str, Any]:
    return MessageToDict(sampling, preserving_proto_field_name=True)


def format_to_record(request: pb.StepRequest) -> dict[str, Any] | None:
    if not request.HasField("format"):
        return None
    return MessageToDict(request.format, preserving_proto_field_name=True)


def committed_step(entry: LogEntry, generation: int) -> pb.CommittedStep:
    """A log entry without its token ids."""
    return pb.CommittedStep(
        step_id=entry.step_id,
        index=entry.index,
        messages=[message_to_proto(record) for record in entry.messages],
        output=message_to_proto(entry.output),
        finish_reason=pb.FinishReason.Value(entry.finish_reason),
        usage=usage(entry),
        head=head_to_proto(entry.head, generation),
        sampling=ParseDict({**entry.sampling, "seed": entry.seed}, pb.Sampling()),
        format=None if entry.format is None else ParseDict(entry.format, pb.Format()),
        commit_time=timestamp(entry.commit_ms),
    )


def usage(counted: LogEntry | Descriptor) -> pb.Usage:
    """Tokens of a step, or of a session's whole life."""
    return pb.Usage(
        prompt_tokens=counted.prompt_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.cached_tokens,
        reconstructed_tokens=counted.reconstructed_tokens,
    )


def session(descriptor: Descriptor, pool: PoolDocument | None, where: tuple[str, int] | None) -> pb.Session:
    """A descriptor as its owner sees it. `where` is worker and cached tokens as published, None when COLD."""
    worker, cached = where or ("", 0)
    answer = pb.Session(
        id=descriptor.session_id,
        pool=descriptor.pool,
        role=descriptor.role,
        task=descriptor.task,
        parent_session_id=descriptor.parent,
        model=descriptor.model,
        model_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=head_to_proto(descriptor.head, descriptor.generation),
        state=_STATES[descriptor.state],
        tier=pb.TIER_HOT if worker else pb.TIER_COLD,
        worker=worker,
        cached_tokens=cached,
        steps=descriptor.steps,
        usage=usage(descriptor),
        running_step_id=descriptor.attempt.step_id if descriptor.attempt else "",
        create_time=timestamp(descriptor.created_ms),
        update_time=timestamp(descriptor.updated_ms),
        labels=descriptor.labels,
    )
    if descriptor.expires_ms:
        answer.expire_time.CopyFrom(timestamp(descriptor.expires_ms))
    if descriptor.hold is not None:
        hold = descriptor.hold
        answer.hold.CopyFrom(
            pb.Hold(tool=hold.tool, expect_seconds=hold.expect_seconds, begin_time=timestamp(hold.begin_ms))
        )
    budget = pool.role(descriptor.role).budget_tokens if pool else 0
    if budget:
        answer.budget_remaining_tokens = max(0, budget - used_tokens(descriptor))
    return answer


def used_tokens(descriptor: Descriptor) -> int:
    """What counts against a role's budget."""
    return descriptor.prompt_tokens + descriptor.output_tokens


def timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
