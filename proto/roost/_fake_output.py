"""What the fake gateway's "model" writes: a reply as tokens, cut as sampling asks. A token is a byte. Pure."""

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from roost.contract.events import CallPart, Delta, FinishReason, Part
from roost.contract.heads import AttemptRef
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
from roost.contract.parts import PartLog, parts_of_message, units
from roost.contract.steps import Cursor

_THINK, _END_THINK = "<think>", "</think>"


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
    message: Message
    finish_reason: FinishReason | None
    reasoning: str = ""
    stop_string: str = ""

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the thinking, its marks included."""
        thinking, mark, _ = self.text.partition(_END_THINK)
        return len((thinking + mark).encode()) if self.reasoning else 0

    def deltas(self, cursor: Cursor, attempt: AttemptRef, size: int) -> Iterator[Delta]:
        """Pieces of `size` tokens from a reader's cursor on. Text lags where a character is incomplete."""
        tokens, text_bytes, part_offset = cursor.tokens, cursor.text_bytes, cursor.parts
        decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        spelled = len(decoder.decode(self.ids[:tokens]).encode())
        whole = self.text.encode()
        places, characters = self._places(), len(whole[:text_bytes].decode())
        written = PartLog(_between(places, 0, characters))
        for begin in range(tokens, len(self.ids), size):
            piece = self.ids[begin : begin + size]
            spelled += len(decoder.decode(piece).encode())
            text = whole[text_bytes : min(spelled, len(whole))].decode()
            written.extend(_between(places, characters, characters + len(text)))
            parts = written.after(part_offset)
            yield Delta(text, piece, begin, text_bytes, attempt=attempt, parts=parts, part_offset=part_offset)
            text_bytes += len(text.encode())
            characters += len(text)
            part_offset += sum(map(units, parts))

    def _places(self) -> list[tuple[int, Part]]:
        """The parts and where in the text each ends; what a stop string has cut off is put at its end."""
        places, at = list[tuple[int, Part]](), 0
        for part in parts_of_message(self.message.content, self.reasoning, self.message.tool_calls):
            spelled = f'"name": {json.dumps(part.name)}' if isinstance(part, CallPart) else part.text
            begin = self.text.find(spelled, at)
            at = len(self.text) if begin < 0 else begin + len(spelled)
            places.append((at, part))
        return places


def _between(places: Sequence[tuple[int, Part]], start: int, stop: int) -> Iterator[Part]:
    """What of the parts comes with the characters from `start` to `stop` of the text."""
    for end, part in places:
        if isinstance(part, CallPart):
            if start < end <= stop:
                yield part
        else:
            begin = end - len(part.text)
            yield replace(part, text=part.text[max(0, start - begin) : max(0, stop - begin)])


def make_output(reply: str | Message, sampling: Sampling, limit: int) -> FakeOutput:
    """A reply as output: a message with tool calls is spelled as text the way Hermes-style models do. Text may begin
    with thinking, in `<think>` and `</think>`."""
    text = reply if isinstance(reply, str) else _spell(reply)
    ids, text, reason, stop_string = _cut(text, sampling, limit)
    if isinstance(reply, Message) and reply.tool_calls and reason is not FinishReason.LENGTH:
        return FakeOutput(ids, text, reply, FinishReason.TOOL_CALLS)
    content, reasoning = text, ""
    if text.startswith(_THINK):
        reasoning, _, content = text.removeprefix(_THINK).partition(_END_THINK)
        reasoning, content = reasoning.strip(), content.strip()
    return FakeOutput(ids, text, Message(MessageRole.ASSISTANT, content), reason, reasoning, stop_string)


def _spell(message: Message) -> str:
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments_json}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    return "\n".join([message.content, *calls] if message.content else calls)


def _cut(text: str, sampling: Sampling, limit: int) -> tuple[bytes, str, FinishReason, str]:
    """Ends the text at a stop string (whose ids stay), which is returned, or at the most tokens (which may cut a
    character)."""
    ids, stop = text.encode(), ""
    stops = [(text.find(stop), stop) for stop in sampling.stop if stop and stop in text]
    if stops:
        begin, stop = min(stops)
        text, ids = text[:begin], text[: begin + len(stop)].encode()
    most = limit if sampling.max_tokens is None else min(limit, sampling.max_tokens)
    if len(ids) <= most:
        return ids, text, FinishReason.STOP, stop
    ids = ids[:most]
    return ids, ids.decode(errors="ignore")[: len(text)], FinishReason.LENGTH, ""


REVISION = "fake"
"""Revision of the fake model until it is changed."""


def render(system: str, tools: Sequence[str], new: Sequence[Message], *, first: bool, revision: str) -> bytes:
    """Prompt ids of a step: its messages as JSON lines, with system text and names of tools before the first."""
    begin = {"system": system, "tools": tools}
    lines = [json.dumps(begin if revision == REVISION else {**begin, "revision": revision})] if first else []
    lines += [json.dumps(_shown(message)) for message in new]
    return "".join(line + "\n" for line in lines).encode()


def _shown(message: Message) -> dict[str, object]:
    calls = [{"name": call.name, "arguments": call.arguments_json} for call in message.tool_calls]
    return {"role": message.role, "content": message.content} | ({"tool_calls": calls} if calls else {})
