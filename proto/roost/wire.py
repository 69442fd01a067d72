"""Messages, formats and sessions: between the contract's values and `roost.v1` messages. Pure.

Steps and their events are in `roost.wire_steps`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from roost.contract import budgets, events, messages, sessions
from roost.contract.heads import AttemptRef, Head
from roost.contract.steps import Deltas
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


def enum_value(wrapper: Any, prefix: str, member: StrEnum | None) -> Any:
    """Number of the proto enum's value for `member`; unspecified for None."""
    return wrapper.Value(f"{prefix}_{member.name if member else 'UNSPECIFIED'}")


def enum_member(kind: type[_E], wrapper: Any, prefix: str, number: int) -> _E | None:
    """Member for a proto enum's number; None when it is unspecified or this version does not know it."""
    value = wrapper.DESCRIPTOR.values_by_number.get(number)
    return None if value is None else kind.__members__.get(value.name.removeprefix(f"{prefix}_"))


def _selected(kind: type[_E], wrapper: Any, prefix: str, number: int) -> str:
    """A filter as text: empty for no filter; an unknown number becomes a text that matches nothing."""
    return (enum_member(kind, wrapper, prefix, number) or str(number)) if number else ""


def message_to_wire(message: messages.Message) -> pb.Message:
    return pb.Message(
        role=enum_value(pb.MessageRole, "MESSAGE_ROLE", message.role),
        content=message.content,
        tool_calls=[
            pb.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json) for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def message_from_wire(wire: pb.Message) -> messages.Message:
    """An unknown role becomes UNSPECIFIED, which no request may use."""
    role = enum_member(messages.MessageRole, pb.MessageRole, "MESSAGE_ROLE", wire.role)
    calls = tuple(messages.ToolCall(call.id, call.name, call.arguments_json) for call in wire.tool_calls)
    return messages.Message(role or messages.MessageRole.UNSPECIFIED, wire.content, calls, wire.tool_call_id, wire.name)


def tools_to_wire(tools: Iterable[messages.Tool]) -> list[pb.Tool]:
    return [
        pb.Tool(name=tool.name, description=tool.description, parameters_json=messages.to_json(tool.parameters))
        for tool in tools
    ]


def tools_from_wire(wire: Iterable[pb.Tool]) -> tuple[messages.ToolDefinition, ...]:
    return tuple(messages.ToolDefinition(tool.name, tool.description, tool.parameters_json) for tool in wire)


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


def deltas_to_wire(deltas: Deltas) -> "pb.Deltas.ValueType":
    number: pb.Deltas.ValueType = enum_value(pb.Deltas, "DELTAS", deltas)
    return number


def deltas_from_wire(wire: "pb.Deltas.ValueType") -> Deltas:
    """INTERVAL for a client that does not say, or asks for what this version does not know."""
    return enum_member(Deltas, pb.Deltas, "DELTAS", wire) or Deltas.INTERVAL


def format_to_wire(constraint: messages.Format) -> pb.Format:
    if isinstance(constraint, messages.JsonSchema):
        return pb.Format(json_schema=constraint.text)
    if not isinstance(constraint, messages.ToolChoice):
        raise TypeError(f"{constraint!r:.80} is not a format; make one with `JsonSchema(…)` or `ToolChoice(…)`")
    mode = enum_value(pb.ToolChoiceMode, "TOOL_CHOICE_MODE", constraint.mode)
    return pb.Format(tool_choice=pb.ToolChoice(mode=mode, name=constraint.name))


def format_from_wire(wire: pb.Format) -> messages.Format | None:
    """An unknown mode becomes AUTO; a name that goes with no mode is left to `requests.step`."""
    kind = wire.WhichOneof("kind")
    if kind == "json_schema":
        return messages.JsonSchema(wire.json_schema)
    if kind == "tool_choice":
        mode = enum_member(messages.ToolChoiceMode, pb.ToolChoiceMode, "TOOL_CHOICE_MODE", wire.tool_choice.mode)
        return messages.ToolChoice.unchecked(mode or messages.ToolChoiceMode.AUTO, wire.tool_choice.name)
    return None


def head_to_wire(head: Head) -> pb.Head:
    return pb.Head(length=head.length, log_hash=head.log_hash, generation=head.generation)


def head_from_wire(wire: pb.Head) -> Head:
    return Head(wire.length, wire.log_hash, wire.generation)


def attempt_to_wire(attempt: AttemptRef) -> pb.Attempt:
    return pb.Attempt(epoch=attempt.epoch, nonce=attempt.nonce)


def attempt_from_wire(wire: pb.Attempt) -> AttemptRef:
    return AttemptRef(wire.epoch, wire.nonce)


def usage_to_wire(usage: events.Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        reconstructed_tokens=usage.reconstructed_tokens,
        gpu_seconds=usage.gpu_seconds,
    )


def usage_from_wire(wire: pb.Usage) -> events.Usage:
    return events.Usage(
        wire.prompt_tokens, wire.output_tokens, wire.cached_tokens, wire.reconstructed_tokens, wire.gpu_seconds
    )


def logprobs_from_wire(wire: Iterable[pb.TokenLogprobs]) -> tuple[events.TokenLogprobs, ...]:
    return tuple(events.TokenLogprobs(entry.logprob, tuple(entry.top_ids), tuple(entry.top_logprobs)) for entry in wire)


def time_to_wire(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def time_from_wire(owner: Any, name: str) -> datetime | None:
    """A timestamp field as UTC; None when unset."""
    if not owner.HasField(name):
        return None
    stamp: Timestamp = getattr(owner, name)
    return stamp.ToDatetime(tzinfo=UTC)


def open_request_from_wire(wire: pb.OpenSessionRequest) -> sessions.OpenRequest:
    return sessions.OpenRequest(
        pool=wire.pool,
        role=wire.role,
        system=wire.system,
        tools=tools_from_wire(wire.tools),
        task=wire.task,
        parent=wire.parent_session_id,
        request_id=wire.request_id,
        labels=dict(wire.labels),
    )


def fork_request_from_wire(wire: pb.ForkSessionRequest) -> sessions.ForkRequest:
    return sessions.ForkRequest(
        session_id=wire.session_id,
        at=head_from_wire(wire.at) if wire.HasField("at") else None,
        request_id=wire.request_id,
        task=wire.task,
        labels=dict(wire.labels),
    )


def fold_request_from_wire(wire: pb.FoldSessionRequest) -> sessions.FoldRequest:
    return sessions.FoldRequest(
        session_id=wire.session_id,
        summary=wire.summary,
        keep_turns=wire.keep_turns,
        expected_head=head_from_wire(wire.expected_head) if wire.HasField("expected_head") else None,
        request_id=wire.request_id,
    )


def session_query_from_wire(wire: pb.ListSessionsRequest) -> sessions.SessionQuery:
    return sessions.SessionQuery(
        pool=wire.pool,
        state=_selected(sessions.SessionState, pb.SessionState, "SESSION_STATE", wire.state),
        tier=_selected(sessions.Tier, pb.Tier, "TIER", wire.tier),
        role=wire.role,
        task=wire.task,
        page_size=wire.page_size,
        page_token=wire.page_token,
    )


def session_to_wire(info: sessions.SessionInfo) -> pb.Session:
    return pb.Session(
        id=info.id,
        pool=info.pool,
        role=info.role,
        task=info.task,
        parent_session_id=info.parent,
        model=info.model,
        model_revision=info.model_revision,
        generation=info.generation,
        head=head_to_wire(info.head),
        state=enum_value(pb.SessionState, "SESSION_STATE", info.state),
        tier=enum_value(pb.Tier, "TIER", info.tier),
        worker=info.worker,
        cached_tokens=info.cached_tokens,
        hold=None if info.hold is None else _hold_to_wire(info.hold),
        steps=info.steps,
        usage=usage_to_wire(info.usage),
        budget_remaining_tokens=info.budget_remaining_tokens,
        running_step_id=info.running_step_id,
        create_time=time_to_wire(info.create_time),
        update_time=time_to_wire(info.update_time),
        expire_time=time_to_wire(info.expire_time),
        labels=info.labels,
        tools=map(session_tool_to_wire, info.tools),
        forked_from=None if info.forked_from is None else fork_point_to_wire(info.forked_from),
        budgets=budgets_to_wire(info.budgets),
    )


def budgets_to_wire(statuses: Iterable[budgets.BudgetStatus]) -> list[pb.BudgetStatus]:
    return [
        pb.BudgetStatus(
            scope=enum_value(pb.BudgetScope, "BUDGET_SCOPE", status.scope),
            unit=enum_value(pb.BudgetUnit, "BUDGET_UNIT", status.unit),
            used=status.used,
            limit=status.limit,
        )
        for status in statuses
    ]


def budgets_from_wire(wire: Iterable[pb.BudgetStatus]) -> tuple[budgets.BudgetStatus, ...]:
    """Without those of a scope or unit that this version does not know."""
    statuses = []
    for status in wire:
        scope = enum_member(budgets.BudgetScope, pb.BudgetScope, "BUDGET_SCOPE", status.scope)
        unit = enum_member(budgets.BudgetUnit, pb.BudgetUnit, "BUDGET_UNIT", status.unit)
        if scope is not None and unit is not None:
            statuses.append(budgets.BudgetStatus(scope, unit, status.used, status.limit))
    return tuple(statuses)


def fork_point_to_wire(point: sessions.ForkPoint) -> pb.ForkPoint:
    return pb.ForkPoint(session_id=point.session_id, head=head_to_wire(point.head))


def fork_point_from_wire(wire: pb.ForkPoint) -> sessions.ForkPoint:
    return sessions.ForkPoint(wire.session_id, head_from_wire(wire.head))


def session_tool_to_wire(tool: sessions.SessionTool) -> pb.SessionTool:
    return pb.SessionTool(name=tool.name, constrained=tool.constrained, keyword=tool.keyword)


def session_tool_from_wire(wire: pb.SessionTool) -> sessions.SessionTool:
    constrained = wire.constrained if wire.HasField("constrained") else None
    return sessions.SessionTool(wire.name, constrained, wire.keyword)


def _hold_to_wire(hold: sessions.Hold) -> pb.Hold:
    return pb.Hold(tool=hold.tool, expect_seconds=hold.expect_seconds, begin_time=time_to_wire(hold.begin_time))


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
        tools=tuple(map(session_tool_from_wire, wire.tools)),
        forked_from=fork_point_from_wire(wire.forked_from) if wire.HasField("forked_from") else None,
        budgets=budgets_from_wire(wire.budgets),
    )
