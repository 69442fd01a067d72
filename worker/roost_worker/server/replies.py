"""The messages that a Generate stream sends: attempts as protobuf messages. Pure."""

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import StopReason
from roost_worker.render.messages import ToolCall
from roost_worker.render.toolcalls import parse
from roost_worker.server.attempts import Attempt
from roost_worker.server.output import OutputSlice


def need_history(from_token: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(need_history=pb.NeedHistory(from_token=from_token))


def accepted(attempt: Attempt) -> pb.GenerateResponse:
    message = pb.Accepted(prompt_token_ids=attempt.prompt_ids, cached_tokens=attempt.expected_cached)
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
    )
    return pb.GenerateResponse(delta=message)


def finished(attempt: Attempt, family: str) -> pb.GenerateResponse:
    """Return the whole result of a complete attempt; tool calls are parsed in the format of `family`."""
    text = attempt.output.text
    content, calls = parse(text, family) if attempt.parses_tools else (text, ())
    message = pb.Finished(
        finish_reason=_finish_reason(attempt, calls),
        output_tokens=len(attempt.output.ids),
        text=text,
        content=content,
        tool_calls=[api.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json) for call in calls],
        cached_tokens=attempt.cached_tokens,
    )
    return pb.GenerateResponse(finished=message)


def _finish_reason(attempt: Attempt, calls: tuple[ToolCall, ...]) -> "api.FinishReason.ValueType":
    if attempt.result == StopReason.LENGTH:
        return api.FINISH_REASON_LENGTH
    return api.FINISH_REASON_TOOL_CALLS if calls else api.FINISH_REASON_STOP
