"""Steps, their events and the entries of a log: between the contract's values and `roost.v1` messages. Pure."""

from roost.contract import events, sessions, steps
from roost.contract.repetition import Repetition
from roost.contract.why import WaitReason
from roost.v1 import session_service_pb2 as pb
from roost.wire import (
    attempt_from_wire,
    attempt_to_wire,
    budgets_from_wire,
    budgets_to_wire,
    deltas_from_wire,
    deltas_to_wire,
    enum_member,
    enum_value,
    format_from_wire,
    format_to_wire,
    head_from_wire,
    head_to_wire,
    logprobs_from_wire,
    message_from_wire,
    message_to_wire,
    sampling_from_wire,
    sampling_to_wire,
    time_from_wire,
    time_to_wire,
    usage_from_wire,
    usage_to_wire,
)
from roost.wire_parts import add_parts, parts_from_wire
from roost.wire_why import why_from_wire, why_to_wire


def step_request_to_wire(request: steps.StepRequest) -> pb.StepRequest:
    received = request.received
    return pb.StepRequest(
        session_id=request.session_id,
        step_id=request.step_id,
        expected_head=None if request.expected_head is None else head_to_wire(request.expected_head),
        messages=map(message_to_wire, request.messages),
        sampling=sampling_to_wire(request.sampling),
        format=None if request.format is None else format_to_wire(request.format),
        received=None if received is None else cursor_to_wire(received),
        deltas=deltas_to_wire(request.deltas),
    )


def step_request_from_wire(wire: pb.StepRequest) -> steps.StepRequest:
    """Keeps what no step may have, so that `requests.step` can say what is wrong with it."""
    return steps.StepRequest(
        session_id=wire.session_id,
        step_id=wire.step_id,
        messages=tuple(map(message_from_wire, wire.messages)),
        sampling=sampling_from_wire(wire.sampling),
        format=format_from_wire(wire.format) if wire.HasField("format") else None,
        expected_head=head_from_wire(wire.expected_head) if wire.HasField("expected_head") else None,
        received=cursor_from_wire(wire.received) if wire.HasField("received") else None,
        deltas=deltas_from_wire(wire.deltas),
    )


def cursor_to_wire(cursor: steps.Cursor) -> pb.Cursor:
    return pb.Cursor(
        attempt=attempt_to_wire(cursor.attempt),
        tokens=cursor.tokens,
        text_bytes=cursor.text_bytes,
        parts=cursor.parts,
    )


def cursor_from_wire(wire: pb.Cursor) -> steps.Cursor:
    return steps.Cursor(attempt_from_wire(wire.attempt), wire.tokens, wire.text_bytes, wire.parts)


def event_to_wire(event: events.Event) -> pb.StepResponse:
    if isinstance(event, events.Delta):
        return _delta_to_wire(event)
    if isinstance(event, events.Committed):
        return pb.StepResponse(committed=_committed_to_wire(event))
    if isinstance(event, events.Started):
        return pb.StepResponse(
            started=pb.StepStarted(
                attempt=attempt_to_wire(event.attempt),
                worker=event.worker,
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                why=None if event.why is None else why_to_wire(event.why),
            )
        )
    if isinstance(event, events.Queued):
        return pb.StepResponse(queued=_queued_to_wire(event))
    if isinstance(event, events.Restarted):
        return pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt_to_wire(event.attempt), reason=event.reason))
    return pb.StepResponse(migrated=_migrated_to_wire(event))


def event_from_wire(step_id: str, wire: pb.StepResponse) -> events.Event | None:
    """None for an event that this version does not know."""
    kind = wire.WhichOneof("event")
    if kind == "delta":
        return _delta_from_wire(wire.delta)
    if kind == "started":
        started = wire.started
        attempt = attempt_from_wire(started.attempt)
        why = why_from_wire(started.why) if started.HasField("why") else None
        return events.Started(started.worker, started.prompt_tokens, started.cached_tokens, attempt, why)
    if kind == "queued":
        return _queued_from_wire(wire.queued)
    if kind == "restarted":
        return events.Restarted(wire.restarted.reason, attempt_from_wire(wire.restarted.attempt))
    if kind == "migrated":
        return _migrated_from_wire(wire.migrated)
    if kind == "committed":
        return _committed_from_wire(step_id, wire.committed)
    return None


def _queued_to_wire(event: events.Queued) -> pb.StepQueued:
    return pb.StepQueued(
        position=event.position,
        reason=enum_value(pb.WaitReason, "WAIT_REASON", event.reason),
        continuation=event.continuation,
        estimate_seconds=event.estimate_seconds,
        live_tokens=event.live_tokens,
        live_limit_tokens=event.live_limit_tokens,
    )


def _queued_from_wire(wire: pb.StepQueued) -> events.Queued:
    return events.Queued(
        wire.position,
        enum_member(WaitReason, pb.WaitReason, "WAIT_REASON", wire.reason),
        wire.continuation,
        wire.estimate_seconds,
        wire.live_tokens,
        wire.live_limit_tokens,
    )


def _delta_to_wire(event: events.Delta) -> pb.StepResponse:
    response = pb.StepResponse()
    wire = response.delta  # filled in place: a message that is put into another one is copied
    wire.attempt.epoch, wire.attempt.nonce = event.attempt.epoch, event.attempt.nonce
    wire.token_offset, wire.text_offset = event.token_offset, event.text_offset
    wire.token_ids.extend(event.token_ids)
    wire.text = event.text
    for entry in event.logprobs:
        wire.logprobs.add(logprob=entry.logprob, top_ids=entry.top_ids, top_logprobs=entry.top_logprobs)
    wire.part_offset = event.part_offset
    add_parts(wire, event.parts)
    return response


def _delta_from_wire(wire: pb.StepDelta) -> events.Delta:
    return events.Delta(
        text=wire.text,
        token_ids=wire.token_ids,
        token_offset=wire.token_offset,
        text_offset=wire.text_offset,
        logprobs=logprobs_from_wire(wire.logprobs),
        attempt=attempt_from_wire(wire.attempt),
        parts=parts_from_wire(wire.parts),
        part_offset=wire.part_offset,
    )


def _migrated_to_wire(event: events.Migrated) -> pb.StepMigrated:
    return pb.StepMigrated(
        from_revision=event.from_revision,
        to_revision=event.to_revision,
        generation=event.generation,
        head=head_to_wire(event.head),
    )


def _migrated_from_wire(wire: pb.StepMigrated) -> events.Migrated:
    return events.Migrated(wire.from_revision, wire.to_revision, wire.generation, head_from_wire(wire.head))


def _committed_to_wire(event: events.Committed) -> pb.StepCommitted:
    return pb.StepCommitted(
        output=message_to_wire(event.output),
        finish_reason=enum_value(pb.FinishReason, "FINISH_REASON", event.finish_reason),
        usage=usage_to_wire(event.usage),
        head=head_to_wire(event.head),
        index=event.index,
        queue_ms=event.queue_ms,
        first_token_ms=event.first_token_ms,
        seed=event.seed,
        replayed=event.replayed,
        output_tokens=event.output_tokens,
        failovers=event.failovers,
        warnings=event.warnings,
        reasoning=event.reasoning,
        reasoning_tokens=event.reasoning_tokens,
        stop_string=event.stop_string,
        budgets=budgets_to_wire(event.budgets),
        repetition=None if event.repetition is None else _repetition_to_wire(event.repetition),
        why=None if event.why is None else why_to_wire(event.why),
    )


def _committed_from_wire(step_id: str, wire: pb.StepCommitted) -> events.Committed:
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
        warnings=tuple(wire.warnings),
        reasoning=wire.reasoning,
        reasoning_tokens=wire.reasoning_tokens,
        stop_string=wire.stop_string,
        budgets=budgets_from_wire(wire.budgets),
        repetition=_repetition_from_wire(wire.repetition) if wire.HasField("repetition") else None,
        why=why_from_wire(wire.why) if wire.HasField("why") else None,
    )


def _repetition_to_wire(repetition: Repetition) -> pb.Repetition:
    return pb.Repetition(in_task=repetition.in_task, period=repetition.period, times=repetition.times)


def _repetition_from_wire(wire: pb.Repetition) -> Repetition:
    return Repetition(wire.in_task, wire.period, wire.times)


def logged_step_to_wire(step: sessions.LoggedStep) -> pb.CommittedStep:
    return pb.CommittedStep(
        step_id=step.step_id,
        index=step.index,
        messages=map(message_to_wire, step.messages),
        output=message_to_wire(step.output),
        finish_reason=enum_value(pb.FinishReason, "FINISH_REASON", step.finish_reason),
        usage=usage_to_wire(step.usage),
        head=head_to_wire(step.head),
        sampling=sampling_to_wire(step.sampling),
        format=None if step.format is None else format_to_wire(step.format),
        prompt_token_ids=step.prompt_token_ids,
        output_token_ids=step.output_token_ids,
        commit_time=time_to_wire(step.commit_time),
        reasoning=step.reasoning,
        reasoning_tokens=step.reasoning_tokens,
        why=None if step.why is None else why_to_wire(step.why),
    )


def logged_step_from_wire(wire: pb.CommittedStep) -> sessions.LoggedStep:
    return sessions.LoggedStep(
        step_id=wire.step_id,
        index=wire.index,
        messages=tuple(map(message_from_wire, wire.messages)),
        output=message_from_wire(wire.output),
        finish_reason=enum_member(events.FinishReason, pb.FinishReason, "FINISH_REASON", wire.finish_reason),
        usage=usage_from_wire(wire.usage),
        head=head_from_wire(wire.head),
        sampling=sampling_from_wire(wire.sampling),
        format=format_from_wire(wire.format),
        prompt_token_ids=tuple(wire.prompt_token_ids),
        output_token_ids=tuple(wire.output_token_ids),
        commit_time=time_from_wire(wire, "commit_time"),
        reasoning=wire.reasoning,
        reasoning_tokens=wire.reasoning_tokens,
        why=why_from_wire(wire.why) if wire.HasField("why") else None,
    )
