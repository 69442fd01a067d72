"""What the fake gateway's "model" writes: a reply as tokens, cut as sampling asks. A token is a byte. Pure."""

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from roost import wire
from roost.contract.messages import (
    Format,
    JsonSchema,
    Message,
    MessageRole,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from roost.v1 import session_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Turn:
    """What a reply function is given: one step of one session."""

    session_id: str
    role: str
    system: str
    tools: tuple[Tool, ...]
    history: tuple[Message, ...]
    """Messages of the committed steps, inputs and outputs."""
    messages: tuple[Message, ...]
    """New messages."""
    sampling: Sampling
    format: Format | None


def echo(turn: Turn) -> str | Message:
    """The default reply: the last message's text; `null` or a call without arguments when the format wants that."""
    if isinstance(turn.format, JsonSchema):
        return "null"
    if isinstance(turn.format, ToolChoice) and turn.format.mode is ToolChoiceMode.REQUIRED:
        name = turn.format.name or turn.tools[0].name
        return Message(MessageRole.ASSISTANT, "", (ToolCall("call-0", name, "{}"),))
    return turn.messages[-1].content


@dataclass(frozen=True, slots=True)
class FakeOutput:
    """A step's whole output: ids, the text that they spell, and the message."""

    ids: bytes
    text: str
    message: pb.Message = field(compare=False)
    finish_reason: "pb.FinishReason.ValueType"

    def deltas(self, attempt: pb.Attempt, tokens: int, text_bytes: int, size: int) -> Iterator[pb.StepDelta]:
        """Pieces of `size` tokens from a reader's cursor on. Text lags where a character is incomplete."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        spelled = len(decoder.decode(self.ids[:tokens]).encode())
        whole = self.text.encode()
        for begin in range(tokens, len(self.ids), size):
            piece = self.ids[begin : begin + size]
            spelled += len(decoder.decode(piece).encode())
            text = whole[text_bytes : min(spelled, len(whole))].decode()
            yield pb.StepDelta(attempt=attempt, token_offset=begin, token_ids=piece, text_offset=text_bytes, text=text)
            text_bytes += len(text.encode())


def make_output(reply: str | Message, sampling: pb.Sampling, limit: int) -> FakeOutput:
    """A reply as output: a message with tool calls is spelled as text the way Hermes-style models do."""
    message = reply if isinstance(reply, Message) else None
    text = reply if isinstance(reply, str) else _spell(reply)
    ids, text, reason = _cut(text, sampling, limit)
    if message is not None and message.tool_calls and reason != pb.FINISH_REASON_LENGTH:
        return FakeOutput(ids, text, wire.message_to_wire(message), pb.FINISH_REASON_TOOL_CALLS)
    return FakeOutput(ids, text, pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, content=text), reason)


def _spell(message: Message) -> str:
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments_json}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    return "\n".join([message.content, *calls] if message.content else calls)


def _cut(text: str, sampling: pb.Sampling, limit: int) -> tuple[bytes, str, "pb.FinishReason.ValueType"]:
    """Ends the text at a stop string (whose ids stay) or at the most tokens (which may cut a character)."""
    ids = text.encode()
    stops = [(text.find(stop), stop) for stop in sampling.stop if stop and stop in text]
    if stops:
        begin, stop = min(stops)
        text, ids = text[:begin], text[: begin + len(stop)].encode()
    most = min(limit, sampling.max_tokens) if sampling.HasField("max_tokens") else limit
    if len(ids) <= most:
        return ids, text, pb.FINISH_REASON_STOP
    ids = ids[:most]
    return ids, ids.decode(errors="ignore")[: len(text)], pb.FINISH_REASON_LENGTH


REVISION = "fake"
"""Revision of the fake model until it is changed."""


def render(
    system: str, tools: Sequence[str], new: Sequence[pb.Message], *, first: bool, revision: str = REVISION
) -> bytes:
    """Prompt ids of a step: its messages as JSON lines, with system text and names of tools before the first."""
    begin = {"system": system, "tools": tools}
    lines = [json.dumps(begin if revision == REVISION else {**begin, "revision": revision})] if first else []
    lines += [json.dumps({"role": int(message.role), "content": message.content}) for message in new]
    return "".join(line + "\n" for line in lines).encode()
