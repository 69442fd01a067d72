"""Detached steps in the form in which Redis keeps them: `roost.v1` messages and JSON. Pure.

Gateways of other versions read them too: as on the wire, an event or a field that a version does not know is left out.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from roost.contract.events import Event
from roost.contract.reasons import Reason
from roost.contract.steps import StepRequest
from roost.store.detached import StepFailure
from roost.v1 import session_service_pb2 as pb
from roost.wire_steps import event_from_wire, event_to_wire, step_request_from_wire, step_request_to_wire


def encode_request(request: StepRequest) -> bytes:
    return zlib.compress(step_request_to_wire(request).SerializeToString(), level=1)


def decode_request(stored: bytes) -> StepRequest:
    return step_request_from_wire(pb.StepRequest.FromString(zlib.decompress(stored)))


def encode_context(context: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(context, separators=(",", ":")).encode(), level=1)


def decode_context(stored: bytes) -> dict[str, Any]:
    context: dict[str, Any] = json.loads(zlib.decompress(stored))
    return context


def encode_event(event: Event) -> bytes:
    return event_to_wire(event).SerializeToString()


def decode_event(step_id: str, stored: bytes) -> Event | None:
    """None for an event that this version does not know."""
    return event_from_wire(step_id, pb.StepResponse.FromString(stored))


def encode_failure(failure: StepFailure | None) -> bytes:
    """A message may quote what a client sent, which need not be valid Unicode."""
    text = "" if failure is None else f"{failure.reason.value}:{failure.message}"
    return text.encode(errors="backslashreplace")


def decode_failure(stored: bytes) -> StepFailure | None:
    """A reason that this version does not know is INTERNAL."""
    reason, _, message = stored.decode().partition(":")
    if not reason:
        return None
    return StepFailure(Reason.__members__.get(reason, Reason.INTERNAL), message)
