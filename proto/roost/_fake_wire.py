"""Between what the fake gateway's store keeps and what the protocol says. Pure.

Messages, sampling and formats are kept as JSON of their wire messages.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from roost import wire
from roost.contract.heads import Head
from roost.contract.names import new_session_id
from roost.store.records import Descriptor, LogEntry, NewSession, State
from roost.v1 import session_service_pb2 as pb

WORKER = "fake-worker"
_Wire = TypeVar("_Wire", bound=Message)


@dataclass(frozen=True, slots=True)
class FakeRole:
    """A role of the fake pool. 0 means no limit."""

    name: str = "default"
    max_steps: int = 0
    budget_tokens: int = 0
    max_output_tokens: int = 4096


def to_record(message: Message) -> dict[str, Any]:
    return dict(MessageToDict(message))


def from_record(record: dict[str, Any], kind: type[_Wire]) -> _Wire:
    return ParseDict(record, kind())


def digest(request: pb.StepRequest) -> bytes:
    """Of what makes two steps the same: not of the cursor and head, which change from try to try."""
    content = pb.StepRequest()
    content.CopyFrom(request)
    content.ClearField("expected_head")
    content.ClearField("received")
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16).digest()


def expected_head(request: pb.StepRequest | pb.HoldSessionRequest) -> Head | None:
    return wire.head_from_wire(request.expected_head) if request.HasField("expected_head") else None


def new_session(request: pb.OpenSessionRequest, pool: str, role: FakeRole, tenant: str, revision: str) -> NewSession:
    return NewSession(
        session_id=new_session_id(pool),
        tenant=tenant,
        role=role.name,
        model="fake",
        model_revision=revision,
        system=request.system,
        tools=tuple(to_record(tool) for tool in request.tools),
        task=request.task,
        parent=request.parent_session_id,
        labels=dict(request.labels),
        request_id=request.request_id,
    )


def session_to_wire(descriptor: Descriptor, role: FakeRole, cached_tokens: int) -> pb.Session:
    session = pb.Session(
        id=descriptor.session_id,
        pool=descriptor.pool,
        role=descriptor.role,
        task=descriptor.task,
        parent_session_id=descriptor.parent,
        model=descriptor.model,
        model_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=_head(descriptor.head, descriptor.generation),
        state=pb.SESSION_STATE_ACTIVE if descriptor.state is State.ACTIVE else pb.SESSION_STATE_CLOSED,
        tier=pb.TIER_HOT if cached_tokens else pb.TIER_COLD,
        worker=WORKER if cached_tokens else "",
        cached_tokens=cached_tokens,
        steps=descriptor.steps,
        usage=_usage(descriptor),
        running_step_id=descriptor.attempt.step_id if descriptor.attempt else "",
        create_time=_time(descriptor.created_ms),
        update_time=_time(descriptor.updated_ms),
        labels=descriptor.labels,
    )
    if descriptor.hold is not None:
        hold = descriptor.hold
        session.hold.CopyFrom(
            pb.Hold(tool=hold.tool, expect_seconds=hold.expect_seconds, begin_time=_time(hold.begin_ms))
        )
    if role.budget_tokens:
        used = descriptor.prompt_tokens + descriptor.output_tokens
        session.budget_remaining_tokens = max(0, role.budget_tokens - used)
    return session


def step_to_wire(entry: LogEntry, generation: int) -> pb.CommittedStep:
    """A step of a log, without its token ids."""
    step = pb.CommittedStep(
        step_id=entry.step_id,
        index=entry.index,
        messages=[from_record(message, pb.Message) for message in entry.messages],
        output=from_record(entry.output["message"], pb.Message),
        finish_reason=pb.FinishReason.Value(entry.finish_reason),
        usage=_usage(entry),
        head=_head(entry.head, generation),
        sampling=from_record(entry.sampling, pb.Sampling),
        format=None if entry.format is None else from_record(entry.format, pb.Format),
        commit_time=_time(entry.commit_ms),
    )
    step.sampling.seed = entry.seed
    return step


def committed_to_wire(entry: LogEntry, generation: int, *, replayed: bool) -> pb.StepResponse:
    step = step_to_wire(entry, generation)
    committed = pb.StepCommitted(
        output=step.output,
        finish_reason=step.finish_reason,
        usage=step.usage,
        head=step.head,
        index=step.index,
        seed=entry.seed,
        replayed=replayed,
        output_tokens=entry.output_tokens,
    )
    return pb.StepResponse(committed=committed)


def migrated_to_wire(descriptor: Descriptor) -> pb.StepResponse:
    """What a client learns of the migration that made the session's current log."""
    assert descriptor.former is not None
    migrated = pb.StepMigrated(
        from_revision=descriptor.former.model_revision,
        to_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=_head(descriptor.head, descriptor.generation),
    )
    return pb.StepResponse(migrated=migrated)


def _head(head: Head, generation: int) -> pb.Head:
    return pb.Head(length=head.length, log_hash=head.log_hash, generation=generation)


def _usage(counted: LogEntry | Descriptor) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=counted.prompt_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.cached_tokens,
        reconstructed_tokens=counted.reconstructed_tokens,
    )


def _time(milliseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(milliseconds)
    return time
