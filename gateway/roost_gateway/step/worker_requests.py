"""The first message of a Generate stream: a step to begin, to replay, or to go on with. Pure."""

from roost.contract.heads import AttemptRef
from roost.store.records import Began
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import GenerateRequest, Replay, Resume, SessionRef, Start
from roost_gateway.convert import attempt_to_proto, head_to_proto, tool_to_proto
from roost_gateway.step.output import StepOutput


def start(
    request: pb.StepRequest,
    began: Began,
    output: StepOutput,
    *,
    model_revision: str,
    max_output_tokens: int,
    priority: int,
    milliseconds_left: int,
) -> GenerateRequest:
    """Begins the attempt; output of it that is here already is replayed."""
    descriptor = began.descriptor
    sampling = pb.Sampling()
    sampling.CopyFrom(request.sampling)
    sampling.seed, sampling.max_tokens = began.seed, max_output_tokens
    message = Start(
        attempt=output.attempt,
        session=SessionRef(
            session_id=descriptor.session_id,
            generation=descriptor.generation,
            head=head_to_proto(descriptor.head),
        ),
        tenant=descriptor.tenant,
        model_revision=model_revision,
        system=descriptor.system,
        tools=[tool_to_proto(tool) for tool in descriptor.tools],
        messages=request.messages,
        sampling=sampling,
        format=request.format if request.HasField("format") else None,
        replay=_replay(output) if output.accepted else None,
        deadline_ms=milliseconds_left,
        priority=priority,
    )
    return GenerateRequest(start=message)


def _replay(output: StepOutput) -> Replay:
    return Replay(
        prompt_token_ids=output.prompt_ids,
        output_token_ids=output.ids,
        text_bytes=len(output.text),
        tokens=len(output.ids),
    )


def resume(session_id: str, attempt: AttemptRef, output: StepOutput, milliseconds_left: int) -> GenerateRequest:
    """Takes over what a worker has of `attempt`, from where the output here ends: it is needed whole for the commit,
    whatever the client has."""
    return GenerateRequest(
        resume=Resume(
            attempt=attempt_to_proto(attempt),
            new_attempt=output.attempt,
            session_id=session_id,
            from_token=len(output.ids),
            from_text_byte=len(output.text),
            deadline_ms=milliseconds_left,
        )
    )
