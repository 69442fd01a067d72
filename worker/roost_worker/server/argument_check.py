"""Checks the arguments of a required call once it is written, for what its grammar does not enforce."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from roost.contract.events import TextPart
from roost_worker.grammar import CompilePool, CompileUnavailableError
from roost_worker.render.messages import ToolCall
from roost_worker.server import refusals
from roost_worker.server.output import OutputMessage


async def check_arguments(
    text: str, message: OutputMessage, schemas: Mapping[str, str], pool: CompilePool
) -> OutputMessage:
    """Return the message in `text` of a step that required a call; all of `text`, with a warning, if it breaks a rule.

    No object in the arguments may hold a key twice, and the arguments of a tool in `schemas` must keep its schema.
    Raise Refused, QUEUE_TIMEOUT, without a verdict in `wait_seconds`: the message must then be read again.
    """
    for call in message.tool_calls:
        if fault := await _fault(call, schemas, pool):
            warning = f"what looks like a tool call stays text: {fault}"
            written = () if call.name in schemas else message.parts  # what is checked here is not written before
            parts = (*written, TextPart(text))
            return replace(message, content=text, tool_calls=(), warnings=(*message.warnings, warning), parts=parts)
    return message


async def _fault(call: ToolCall, schemas: Mapping[str, str], pool: CompilePool) -> str | None:
    key = await asyncio.to_thread(repeated_key, call.arguments_json)
    if key is not None:
        return f"the arguments of {call.name!r} hold the key {key[:64]!r} twice"
    if call.name not in schemas:
        return None
    try:
        violation = await pool.violation(schemas[call.name], call.arguments_json, pool.setup.limits.wait_seconds)
    except CompileUnavailableError as error:
        raise refusals.no_verdict(str(error), on=f"the arguments of {call.name!r} were not checked") from error
    return violation and f"the arguments of {call.name!r} break its schema: {violation}"


def repeated_key(arguments_json: str) -> str | None:
    """Return a key that an object in the JSON text holds twice, escaped or not, or None."""
    repeated: list[str] = []

    def note(members: list[tuple[str, Any]]) -> None:
        repeated.extend(key for key, count in Counter(key for key, _ in members).items() if count > 1)

    # Numbers stay text: Python refuses to read very long integers.
    json.loads(arguments_json, object_pairs_hook=note, parse_int=str, parse_float=str)
    return repeated[0] if repeated else None
