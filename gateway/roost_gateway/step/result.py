"""From a finished output to what is committed. Pure."""

from collections.abc import Sequence

from roost.contract.heads import AttemptRef, Head
from roost.contract.loghash import extend, pack_ids
from roost.store.records import Began, CommitRequest, LogEntry
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import Finished
from roost_gateway.convert import format_to_record, message_to_record, sampling_to_record, tool_calls_to_record
from roost_gateway.step.output import StepOutput
from roost_gateway.step.replay import lineage_to_record


def commit_request(
    request: pb.StepRequest,
    began: Began,
    output: StepOutput,
    finished: Finished,
    *,
    lineage: Sequence[AttemptRef],
    worker_id: str,
    model_revision: str,
    ttl_ms: int,
) -> CommitRequest:
    """What Commit writes: the entry, the ids, and the log's hash over them."""
    descriptor = began.descriptor
    packed = pack_ids(output.prompt_ids) + pack_ids(output.ids)
    head = Head(descriptor.head.length + len(packed) // 4, extend(descriptor.head.log_hash, packed))
    entry = LogEntry(
        step_id=request.step_id,
        index=descriptor.steps,
        messages=tuple(message_to_record(message) for message in request.messages),
        output=_output_record(output, finished, lineage),
        finish_reason=pb.FinishReason.Name(finished.finish_reason),
        prompt_tokens=len(output.prompt_ids),
        output_tokens=len(output.ids),
        cached_tokens=finished.cached_tokens,
        reconstructed_tokens=reconstructed(descriptor.head.length, finished.cached_tokens),
        head=head,
        seed=began.seed,
        sampling=sampling_to_record(request.sampling),
        format=format_to_record(request),
        model_revision=model_revision,
        worker_id=worker_id,
    )
    return CommitRequest(
        session_id=descriptor.session_id,
        ref=began.ref,
        previous=descriptor.head,
        entry=entry,
        packed_ids=packed,
        ttl_ms=ttl_ms,
        owner=worker_id,
    )


def reconstructed(log_tokens: int, cached_tokens: int) -> int:
    """Tokens of the log that were computed again. The last token of a log is always the next step's to compute."""
    return max(0, log_tokens - 1 - cached_tokens)


def _output_record(output: StepOutput, finished: Finished, lineage: Sequence[AttemptRef]) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": finished.content,
        "tool_calls": tool_calls_to_record(finished.tool_calls),
        "text": output.text.decode(),
        "attempts": lineage_to_record(lineage),
    }
