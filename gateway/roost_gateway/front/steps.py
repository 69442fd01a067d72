"""Steps and their events between `roost.v1` and the contract's values. Pure."""

from roost.contract.events import Committed, Delta, Event, Migrated, Queued, Restarted, Started
from roost.contract.heads import AttemptRef
from roost.contract.refused import invalid
from roost.contract.steps import Cursor, StepRequest
from roost.v1 import session_service_pb2 as pb
from roost.wire import (
    enum_value,
    format_from_wire,
    head_from_wire,
    head_to_wire,
    message_from_wire,
    message_to_wire,
    sampling_from_wire,
)


def step_request_from_wire(wire: pb.StepRequest) -> StepRequest:
    """Raises Refused: INVALID_REQUEST for a format that no value of the contract can have."""
    try:
        constraint = format_from_wire(wire.format) if wire.HasField("format") else None
    except ValueError as error:
        raise invalid([("format", str(error))]) from error
    return StepRequest(
        session_id=wire.session_id,
        step_id=wire.step_id,
        messages=tuple(map(message_from_wire, wire.messages)),
        sampling=sampling_from_wire(wire.sampling),
        format=constraint,
        expected_head=head_from_wire(wire.expected_head) if wire.HasField("expected_head") else None,
        received=_cursor(wire.received) if wire.HasField("received") else None,
    )


def _cursor(wire: pb.Cursor) -> Cursor:
    return Cursor(AttemptRef(wire.attempt.epoch, wire.attempt.nonce), wire.tokens, wire.text_bytes)


def event_to_wire(event: Event) -> pb.StepResponse:
    if isinstance(event, Delta):
        return _delta(event)
    if isinstance(event, Queued):
        return pb.StepResponse(queued=pb.StepQueued(position=event.position))
    if isinstance(event, Started):
        return pb.StepResponse(
            started=pb.StepStarted(
                attempt=_attempt(event.attempt),
                worker=event.worker,
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
            )
        )
    if isinstance(event, Restarted):
        return pb.StepResponse(restarted=pb.StepRestarted(attempt=_attempt(event.attempt), reason=event.reason))
    if isinstance(event, Migrated):
        return pb.StepResponse(
            migrated=pb.StepMigrated(
                from_revision=event.from_revision,
                to_revision=event.to_revision,
                generation=event.generation,
                head=head_to_wire(event.head),
            )
        )
    return pb.StepResponse(committed=_committed(event))


def _delta(event: Delta) -> pb.StepResponse:
    response = pb.StepResponse()
    wire = response.delta  # filled in place: a message that is put into another one is copied
    wire.attempt.epoch, wire.attempt.nonce = event.attempt.epoch, event.attempt.nonce
    wire.token_offset, wire.text_offset = event.token_offset, event.text_offset
    wire.token_ids.extend(event.token_ids)
    wire.text = event.text
    for entry in event.logprobs:
        wire.logprobs.add(logprob=entry.logprob, top_ids=entry.top_ids, top_logprobs=entry.top_logprobs)
    return response


def _committed(event: Committed) -> pb.StepCommitted:
    usage = event.usage
    return pb.StepCommitted(
        output=message_to_wire(event.output),
        finish_reason=enum_value(pb.FinishReason, "FINISH_REASON", event.finish_reason),  # type: ignore[arg-type]
        usage=pb.Usage(
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reconstructed_tokens=usage.reconstructed_tokens,
        ),
        head=head_to_wire(event.head),
        index=event.index,
        queue_ms=event.queue_ms,
        first_token_ms=event.first_token_ms,
        seed=event.seed,
        replayed=event.replayed,
        output_tokens=event.output_tokens,
        failovers=event.failovers,
    )


def _attempt(ref: AttemptRef) -> pb.Attempt:
    return pb.Attempt(epoch=ref.epoch, nonce=ref.nonce)
