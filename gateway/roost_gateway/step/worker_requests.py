"""What a worker is sent: a step to begin, to replay or to resume; and steps to render for another revision. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from roost.contract.heads import AttemptRef
from roost.contract.loghash import unpack_ids
from roost.contract.steps import StepRequest
from roost.store.records import Descriptor, LogEntry
from roost.store.rules import ID_BYTES
from roost.store.values import message_from_record
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import GenerateRequest, RenderRequest, Replay, Resume, SessionRef, Start, StepText
from roost.wire import attempt_to_wire, deltas_to_wire, format_to_wire, head_to_wire, message_to_wire, sampling_to_wire
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.output import RenderedStep, StepOutput
from roost_gateway.step.rewriting import Rewriting

PIECE_BYTES = 1024 * 1024
"""Of the steps in one request; a single larger one goes alone."""


def start(attempt: StepAttempt) -> GenerateRequest:
    """Begins the step; output of it that is here already is replayed."""
    request, descriptor, output = attempt.call.request, attempt.descriptor, attempt.output
    sampling = sampling_to_wire(request.sampling)
    sampling.seed, sampling.max_tokens = attempt.began.seed, attempt.call.output_limit(descriptor)
    return GenerateRequest(
        start=Start(
            attempt=attempt_to_wire(attempt.ref),
            session=SessionRef(
                session_id=descriptor.session_id,
                generation=descriptor.generation,
                head=head_to_wire(descriptor.head),
            ),
            tenant=descriptor.tenant,
            model_revision=attempt.model_revision,
            system=descriptor.system,
            date=descriptor.date,
            tools=_tools(descriptor),
            messages=map(message_to_wire, request.messages),
            sampling=sampling,
            format=None if request.format is None else format_to_wire(request.format),
            replay=_replay(output) if output.accepted else None,
            deadline_ms=attempt.call.milliseconds_left,
            priority=attempt.priority,
            role=attempt.call.role.name,
            prompt_lookup=attempt.call.role.prompt_lookup,
            call_seed=call_seed(request),
            deltas=deltas_to_wire(request.deltas),
        )
    )


def call_seed(request: StepRequest) -> bytes:
    """What the ids of a step's calls follow from: no other step has it, and every attempt at this one has."""
    return sha256(f"{request.session_id}\0{request.step_id}".encode()).digest()


def _replay(output: StepOutput) -> Replay:
    return Replay(
        prompt_token_ids=output.prompt_ids,
        output_token_ids=output.ids,
        text_bytes=len(output.text),
        tokens=len(output.ids),
        parts=output.parts.size,
    )


def resume(attempt: StepAttempt, earlier: AttemptRef) -> GenerateRequest:
    """Takes over what a worker has of the attempt `earlier`, from where the output here ends: the commit needs all of
    it, whatever the client has."""
    return GenerateRequest(
        resume=Resume(
            attempt=attempt_to_wire(earlier),
            new_attempt=attempt_to_wire(attempt.ref),
            session_id=attempt.session_id,
            from_token=len(attempt.output.ids),
            from_text_byte=len(attempt.output.text),
            from_part=attempt.output.parts.size,
            deadline_ms=attempt.call.milliseconds_left,
            deltas=deltas_to_wire(attempt.call.request.deltas),
        )
    )


def _tools(descriptor: Descriptor) -> Iterable[pb.Tool]:
    return (
        pb.Tool(name=tool["name"], description=tool["description"], parameters_json=tool["parameters"])
        for tool in descriptor.tools
    )


def pieces(entries: Sequence[LogEntry], plan: Rewriting) -> Iterator[list[StepText]]:
    """The steps to render, cut into requests of bounded size."""
    piece, size = list[StepText](), 0
    for index, entry in enumerate(entries[plan.kept :], plan.kept):
        step = StepText(
            messages=map(_message, entry.messages),
            output=_message(entry.output),
            text=entry.output["text"],
            without_thinking=index < plan.without_thinking,
        )
        if piece and size + step.ByteSize() > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(step)
        size += step.ByteSize()
    if piece:
        yield piece


def _message(record: Mapping[str, Any]) -> pb.Message:
    return message_to_wire(message_from_record(record))


def render_request(
    attempt: StepAttempt, piece: Sequence[StepText], before: Sequence[RenderedStep], plan: Rewriting
) -> RenderRequest:
    """What a worker is asked after it has rendered `before`."""
    rendered = sum(len(step.prompt_ids) + len(step.output_ids) for step in before)
    return RenderRequest(
        model_revision=attempt.need.model_revision,
        system=attempt.descriptor.system,
        date=attempt.descriptor.date,
        tools=_tools(attempt.descriptor),
        steps_before=plan.kept + len(before),
        tokens_before=(len(plan.kept_ids) + rendered) // ID_BYTES,
        steps=piece,
        last_token_id=unpack_ids(plan.kept_ids[-ID_BYTES:])[0] if plan.kept and not before else None,
    )
