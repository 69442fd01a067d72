"""The messages that a Generate stream sends: attempts as protobuf messages. Pure."""

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost.wire_parts import add_parts
from roost.wire_why import eviction_to_wire
from roost_worker.engine.messages import StopReason
from roost_worker.server.attempts import Attempt
from roost_worker.server.output import OutputMessage, OutputSlice


def accepted(attempt: Attempt, block_tokens: int) -> pb.GenerateResponse:
    message = pb.Accepted(
        prompt_token_ids=attempt.prompt_ids,
        cached_tokens=attempt.expected_cached,
        eviction=_eviction(attempt),
        block_tokens=block_tokens,
        ahead_tokens=attempt.ahead_tokens,
    )
    return pb.GenerateResponse(accepted=message)


def delta(output: OutputSlice) -> pb.GenerateResponse:
    message = pb.Delta(
        token_offset=output.token_offset,
        token_ids=output.token_ids,
        text_offset=output.text_offset,
        text=output.text,
        logprobs=[
            api.TokenLogprobs(logprob=own, top_ids=[i for i, _ in top], top_logprobs=[value for _, value in top])
            for own, top in output.logprobs
        ],
        part_offset=output.part_offset,
    )
    add_parts(message, output.parts)
    return pb.GenerateResponse(delta=message)


def finished(attempt: Attempt, message: OutputMessage, block_tokens: int) -> pb.GenerateResponse:
    """Return the whole result of a complete attempt, whose output is `message`."""
    return pb.GenerateResponse(
        finished=pb.Finished(
            finish_reason=_finish_reason(attempt, message),
            output_tokens=len(attempt.output.ids),
            text=attempt.output.text,
            content=message.content,
            tool_calls=[
                api.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
                for call in message.tool_calls
            ],
            cached_tokens=attempt.cached_tokens,
            warnings=message.warnings,
            reasoning=message.reasoning,
            reasoning_tokens=message.reasoning_tokens,
            stop_string=attempt.stop_string,
            gpu_seconds=attempt.gpu_seconds,
            eviction=_eviction(attempt),
            block_tokens=block_tokens,
            ahead_tokens=attempt.ahead_tokens,
        )
    )


def _eviction(attempt: Attempt) -> api.KvEviction | None:
    return None if attempt.eviction is None else eviction_to_wire(attempt.eviction)


def _finish_reason(attempt: Attempt, message: OutputMessage) -> "api.FinishReason.ValueType":
    # A grammar allows nothing after its call, so that the limit has cut off no more than what closes it.
    whole = attempt.turn.constrained and message.tool_calls
    if attempt.result == StopReason.LENGTH and not whole:
        return api.FINISH_REASON_LENGTH
    return api.FINISH_REASON_TOOL_CALLS if message.tool_calls else api.FINISH_REASON_STOP
