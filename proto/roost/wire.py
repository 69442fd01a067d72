"""Between the contract's values and `roost.v1` messages. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from roost.contract import events, messages, sessions
from roost.contract.heads import Head
from roost.v1 import session_service_pb2 as pb

_E = TypeVar("_E", bound=StrEnum)

_OPTIONAL_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "max_tokens",
    "min_tokens",
    "logprobs",
)


def enum_value(wrapper: Any, prefix: str, member: StrEnum | None) -> int:
    """Number of the proto enum's value for `member`; unspecified for None."""
    return int(wrapper.Value(f"{prefix}_{member.name if member else 'UNSPECIFIED'}"))


def enum_member(kind: type[_E], wrapper: Any, prefix: str, number: int) -> _E | None:
    """Member for a proto enum's number; None when unspecified or newer than this SDK."""
    if number not in wrapper.values():
        return None
    return kind.__members__.get(wrapper.Name(number).removeprefix(f"{prefix}_"))


def message_to_wire(message: messages.Message) -> pb.Message:
    wire = pb.Message(content=message.content, tool_call_id=message.tool_call_id, name=message.name)
    wire.role = enum_value(pb.MessageRole, "MESSAGE_ROLE", message.role)  # type: ignore[assignment]  # enum's NewType
    for call in message.tool_calls:
        wire.tool_calls.add(id=call.id, name=call.name, arguments_json=call.arguments_json)
    return wire


def message_from_wire(wire: pb.Message) -> messages.Message:
    role = enum_member(messages.MessageRole, pb.MessageRole, "MESSAGE_ROLE", wire.role)
    calls = tuple(messages.ToolCall(call.id, call.name, call.arguments_json) for call in wire.tool_calls)
    return messages.Message(role or messages.MessageRole.ASSISTANT, wire.content, calls, wire.tool_call_id, wire.name)


def tools_to_wire(tools: Iterable[messages.Tool]) -> list[pb.Tool]:
    return [
        pb.Tool(name=tool.name, description=tool.description, parameters_json=messages.to_json(tool.parameters))
        for tool in tools
    ]


def sampling_to_wire(sampling: messages.Sampling) -> pb.Sampling:
    values = {name: getattr(sampling, name) for name in _OPTIONAL_SAMPLING}
    return pb.Sampling(
        **{name: value for name, value in values.items() if value is not None},
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        logit_bias=dict(sampling.logit_bias),
    )


def sampling_from_wire(wire: pb.Sampling) -> messages.Sampling:
    return messages.Sampling(
        **{name: getattr(wire, name) for name in _OPTIONAL_SAMPLING if wire.HasField(name)},  # type: ignore[arg-type]
        stop=tuple(wire.stop),
        stop_token_ids=tuple(wire.stop_token_ids),
        ignore_eos=wire.ignore_eos,
        logit_bias=dict(wire.logit_bias),
    )


def format_to_wire(constraint: messages.Format) -> pb.Format:
    if isinstance(constraint, messages.JsonSchema):
        return pb.Format(json_schema=constraint.text)
    if not isinstance(constraint, messages.ToolChoice):
        raise TypeError(f"{constraint!r:.80} is no format; make one with `JsonSchema(…)` or `ToolChoice(…)`")
    wire = pb.ToolChoice(name=constraint.name)
    wire.mode = enum_value(pb.ToolChoiceMode, "TOOL_CHOICE_MODE", constraint.mode)  # type: ignore[assignment]
    return pb.Format(tool_choice=wire)


def format_from_wire(wire: pb.Format) -> messages.Format | None:
    kind = wire.WhichOneof("kind")
    if kind == "json_schema":
        return messages.JsonSchema(wire.json_schema)
    if kind == "tool_choice":
        mode = enum_member(messages.ToolChoiceMode, pb.ToolChoiceMode, "TOOL_CHOICE_MODE", wire.tool_choice.mode)
        return messages.ToolChoice(mode or messages.ToolChoiceMode.AUTO, wire.tool_choice.name)
    return None


def head_to_wire(head: Head) -> pb.Head:
    return pb.Head(length=head.length, log_hash=head.log_hash, generation=head.generation)


def head_from_wire(wire: pb.Head) -> Head:
    return Head(wire.length, wire.log_hash, wire.generation)


def usage_from_wire(wire: pb.Usage) -> events.Usage:
    return events.Usage(wire.prompt_tokens, wire.output_tokens, wire.cached_tokens, wire.reconstructed_tokens)


def time_from_wire(owner: Any, name: str) -> datetime | None:
    """A timestamp field as UTC; None when unset."""
    if not owner.HasField(name):
        return None
    stamp: Timestamp = getattr(owner, name)
    return stamp.ToDatetime(tzinfo=UTC)


def session_from_wire(wire: pb.Session) -> sessions.SessionInfo:
    budget = wire.budget_remaining_tokens if wire.HasField("budget_remaining_tokens") else None
    hold = None
    if wire.HasField("hold"):
        hold = sessions.Hold(wire.hold.tool, wire.hold.expect_seconds, time_from_wire(wire.hold, "begin_time"))
    return sessions.SessionInfo(
        id=wire.id,
        pool=wire.pool,
        role=wire.role,
        task=wire.task,
        parent=wire.parent_session_id,
        model=wire.model,
        model_revision=wire.model_revision,
        generation=wire.generation,
        head=head_from_wire(wire.head),
        state=enum_member(sessions.SessionState, pb.SessionState, "SESSION_STATE", wire.state),
        tier=enum_member(sessions.Tier, pb.Tier, "TIER", wire.tier),
        worker=wire.worker,
        cached_tokens=wire.cached_tokens,
        hold=hold,
        steps=wire.steps,
        usage=usage_from_wire(wire.usage),
        budget_remaining_tokens=budget,
        running_step_id=wire.running_step_id,
        create_time=time_from_wire(wire, "create_time"),
        update_time=time_from_wire(wire, "update_time"),
        expire_time=time_from_wire(wire, "expire_time"),
        labels=dict(wire.labels),
    )


def logged_step_from_wire(wire: pb.CommittedStep) -> sessions.LoggedStep:
    return sessions.LoggedStep(
        step_id=wire.step_id,
        index=wire.index,
        messages=tuple(message_from_wire(message) for message in wire.messages),
        output=message_from_wire(wire.output),
        finish_reason=enum_member(events.FinishReason, pb.FinishReason, "FINISH_REASON", wire.finish_reason),
        usage=usage_from_wire(wire.usage),
        head=head_from_wire(wire.head),
        sampling=sampling_from_wire(wire.sampling),
        format=format_from_wire(wire.format),
        prompt_token_ids=tuple(wire.prompt_token_ids),
        output_token_ids=tuple(wire.output_token_ids),
        commit_time=time_from_wire(wire, "commit_time"),
    )


def migrated_from_wire(wire: pb.StepMigrated) -> events.Migrated:
    return events.Migrated(wire.from_revision, wire.to_revision, wire.generation, head_from_wire(wire.head))


def committed_from_wire(step_id: str, wire: pb.StepCommitted) -> events.Committed:
    return events.Committed(
        step_id=step_id,
        output=message_from_wire(wire.output),
        finish_reason=enum_member(events.FinishReason, pb.FinishReason, "FINISH_REASON", wire.finish_reason),
        usage=usage_from_wire(wire.usage),
        head=head_from_wire(wire.head),
        index=wire.index,
        queue_ms=wire.queue_ms,
        first_token_ms=wire.first_token_ms,
        seed=wire.seed,
        replayed=wire.replayed,
        output_tokens=wire.output_tokens,
        failovers=wire.failovers,
    )


def logprobs_from_wire(wire: Iterable[pb.TokenLogprobs]) -> tuple[events.TokenLogprobs, ...]:
    return tuple(events.TokenLogprobs(entry.logprob, tuple(entry.top_ids), tuple(entry.top_logprobs)) for entry in wire)
