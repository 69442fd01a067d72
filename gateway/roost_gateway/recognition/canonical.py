"""The canonical form of a conversation: what stays equal however a client writes its history down again.

Clients rewrite their own past turns (the tests name which client does what). Two histories are the same when the
digests of their units are. Pure.
"""

import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import groupby

from roost.contract.messages import Message, MessageRole, ToolCall
from roost.contract.nonce_lines import NonceLine
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.recognition.flattened import calls_in

DIGEST_BYTES = 16
NONCE_LINES = (NonceLine("x-anthropic-billing-header:"),)
"""Lines that are left out in every pool. Claude Code writes such a line, with a checksum of the request, before its own
system text."""
_THINKING = re.compile(r"(?:\s*<think>.*?(?:</think>|\Z))*", re.DOTALL)
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Unit:
    """Messages that count as one: a turn of the assistant, the results of its calls, or any other message."""

    digest: bytes
    messages: int
    """Number of the conversation's messages up to the end of this one."""
    is_turn: bool
    """Whether the assistant speaks."""


def digest_of(*parts: str | bytes) -> bytes:
    """Digest of a sequence of texts, which differs from that of any other sequence."""
    encoded = [part.encode(errors="surrogatepass") if isinstance(part, str) else part for part in parts]
    framed = b"".join(piece for part in encoded for piece in (_LENGTH.pack(len(part)), part))
    return blake2b(framed, digest_size=DIGEST_BYTES, person=b"roost.unit").digest()


def cleaned(conversation: Conversation, further_nonce_lines: Sequence[NonceLine] = ()) -> Conversation:
    """The conversation as it is compared and rendered: without nonce lines, without reasoning that a client has written
    into the assistant's text and assistant messages that say nothing, and with the results of parallel calls in the
    order of the calls. `further_nonce_lines` are left out beside `NONCE_LINES`."""
    nonce_lines = (*NONCE_LINES, *further_nonce_lines)
    ordered, calls = list[Message](), dict[str, int]()
    spoken = (message for message in conversation.messages if not _says_nothing(message))
    for role, group in groupby(spoken, key=lambda message: message.role):
        messages = list(group)
        if role is MessageRole.ASSISTANT:
            messages = [_with_content(message, _text(message)) for message in messages]
            names = (call.id for message in messages for call in message.tool_calls)
            calls = {name: place for place, name in enumerate(names)}
        elif role is MessageRole.TOOL:
            messages.sort(key=lambda message: calls.get(message.tool_call_id, len(calls)))
        elif role is MessageRole.SYSTEM:
            messages = [_with_content(m, without_nonces(m.content, nonce_lines)) for m in messages]
        ordered += messages
    system = without_nonces(conversation.system, nonce_lines)
    return replace(conversation, system=system, messages=tuple(ordered))


def without_nonces(text: str, nonce_lines: Sequence[NonceLine]) -> str:
    """The text without these lines."""
    present = [nonce for nonce in nonce_lines if nonce.beginning in text]
    if not present:
        return text
    lines = zip(text.splitlines(), text.splitlines(keepends=True), strict=True)
    return "".join(whole for line, whole in lines if not any(nonce.matches(line) for nonce in present))


def units(messages: Iterable[Message]) -> list[Unit]:
    """The units of a cleaned conversation's messages."""
    formed, count = list[Unit](), 0
    for role, group in groupby(messages, key=lambda message: message.role):
        if role is MessageRole.ASSISTANT:
            turn = list(group)
            count += len(turn)
            formed.append(Unit(_turn_digest(turn), count, is_turn=True))
        elif role is MessageRole.TOOL:
            results = sorted(group, key=lambda result: result.tool_call_id)  # they may come without their calls
            count += len(results)
            parts = (part for result in results for part in (result.tool_call_id, result.content))
            formed.append(Unit(digest_of("tool", *parts), count, is_turn=False))
        else:
            for message in group:
                count += 1
                formed.append(Unit(digest_of(role.value, message.content), count, is_turn=False))
    return formed


def output_unit(output: Message) -> bytes | None:
    """Digest of the unit that a step's output becomes in its client's history; None when it says nothing."""
    return None if _says_nothing(output) else _turn_digest([output])


def _turn_digest(turn: Sequence[Message]) -> bytes:
    """Calls stand for the whole turn, since clients leave out the text beside them."""
    calls = [call for message in turn for call in message.tool_calls or calls_in(message.content)]
    if not calls:
        return digest_of("assistant", "".join(_text(message) for message in turn).strip())
    return digest_of("calls", *(part for call in calls for part in _call_parts(call)))


def _call_parts(call: ToolCall) -> tuple[str, str, str]:
    return call.id, call.name, json_value(call.arguments_json)


def json_value(text: str) -> str:
    """JSON text that is equal for equal values; the text itself when it is not JSON. No text stands for `{}`."""
    if not text.strip():
        return "{}"
    try:
        return _WRITER.encode(_READER.decode(text))
    except (ValueError, RecursionError):
        return text.strip()


def _number(text: str) -> float:
    """As JavaScript reads it: 1.50 is 1.5, 2E2 is 200, -0 is 0, and whole numbers are not exact beyond 2**53."""
    return float(text) + 0.0


_READER = json.JSONDecoder(parse_int=_number, parse_float=_number)
_WRITER = json.JSONEncoder(separators=(",", ":"), sort_keys=True)


def _text(message: Message) -> str:
    """What the assistant says, without reasoning that a client has written into it."""
    thinking = _THINKING.match(message.content)
    return message.content[thinking.end() :] if thinking is not None else message.content


def _says_nothing(message: Message) -> bool:
    return message.role is MessageRole.ASSISTANT and not message.tool_calls and not _text(message).strip()


def _with_content(message: Message, content: str) -> Message:
    return message if content == message.content else replace(message, content=content)
