"""What every gateway refuses of a request before it asks its store. Pure; violations name their field and the fix."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from roost.contract.names import is_pool
from roost.v1 import session_service_pb2 as pb

Violations = Iterator[tuple[str, str]]
"""Fields, and what is wrong with each and how to mend it."""

_KEY = re.compile(r"[\x21-\x7e]{1,64}")
_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_LABELS, MAX_LABEL_CHARS = 16, 63
MAX_TOOLS, MAX_STOPS, MAX_STOP_BYTES, MAX_STOP_IDS, MAX_BIASES, MAX_LOGPROBS = 128, 16, 256, 64, 300, 20
MAX_NAME_CHARS = 256
MAX_SYSTEM_BYTES = 1024 * 1024
MAX_HOLD_SECONDS = 1e9
MAX_PAGE_SESSIONS, MAX_PAGE_STEPS = 1000, 100


def open_session(request: pb.OpenSessionRequest) -> Violations:
    """Faults of an OpenSession, its tools' schemas apart."""
    if request.pool and not is_pool(request.pool):
        yield "pool", f"{request.pool[:100]!r} is no pool's name; write namespace/name"
    if request.request_id and not _KEY.fullmatch(request.request_id):
        yield "request_id", "must be 1 to 64 printable ASCII characters without spaces"
    if len(request.system.encode()) > MAX_SYSTEM_BYTES:
        yield "system", f"is longer than {MAX_SYSTEM_BYTES} bytes"
    for name in ("task", "role", "parent_session_id"):
        if len(getattr(request, name)) > MAX_NAME_CHARS:
            yield name, f"is longer than {MAX_NAME_CHARS} characters"
    yield from _labels(request)
    yield from _tools(request.tools)


def _labels(request: pb.OpenSessionRequest) -> Violations:
    if len(request.labels) > MAX_LABELS:
        yield "labels", f"there are {len(request.labels)}; at most {MAX_LABELS} are kept"
    for key, value in request.labels.items():
        if not key or len(key) > MAX_LABEL_CHARS or len(value) > MAX_LABEL_CHARS:
            yield f"labels[{key[:MAX_LABEL_CHARS]}]", f"key and value must have at most {MAX_LABEL_CHARS} characters"


def _tools(tools: Sequence[pb.Tool]) -> Violations:
    if len(tools) > MAX_TOOLS:
        yield "tools", f"there are {len(tools)}; at most {MAX_TOOLS} are taken"
    names: set[str] = set()
    for number, tool in enumerate(tools):
        if not _TOOL.fullmatch(tool.name):
            yield f"tools[{number}].name", f"{tool.name[:100]!r} must match [A-Za-z0-9_-]{{1,64}}"
        elif tool.name in names:
            yield f"tools[{number}].name", f"{tool.name!r} is given twice"
        names.add(tool.name)


def schemas_of_tools(tools: Sequence[pb.Tool]) -> Violations:
    """Faults of tools' schemas; they are `Reason.INVALID_SCHEMA`."""
    for number, tool in enumerate(tools):
        why = _schema_fault(tool.parameters_json) if tool.parameters_json else None
        if why:
            yield f"tools[{number}].parameters_json", why


def schema_of_step(request: pb.StepRequest) -> Violations:
    """Faults of a step's schema; they are `Reason.INVALID_SCHEMA`."""
    why = _schema_fault(request.format.json_schema) if request.format.HasField("json_schema") else None
    if why:
        yield "format.json_schema", why


def _schema_fault(text: str) -> str | None:
    """What is wrong with a JSON schema at first sight; whether it can be enforced is the worker's to say."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    return None if isinstance(schema, dict | bool) else "is no JSON schema: it must be an object"


def hold(request: pb.HoldSessionRequest) -> Violations:
    """Faults of a HoldSession."""
    if not 0 <= request.expect_seconds < MAX_HOLD_SECONDS:
        yield "expect_seconds", "must be 0 (unknown) or a positive number of seconds"
    if len(request.tool) > MAX_NAME_CHARS:
        yield "tool", f"is longer than {MAX_NAME_CHARS} characters"


def page_size(asked: int, most: int) -> Violations:
    """Faults of a list's `page_size`."""
    if asked > most:
        yield "page_size", f"{asked} is more than {most}"


def step(request: pb.StepRequest) -> Violations:
    """Faults of a step, its schema apart."""
    if not _KEY.fullmatch(request.step_id):
        yield "step_id", "must be 1 to 64 printable ASCII characters without spaces"
    yield from _messages(request.messages)
    yield from _sampling(request.sampling)
    yield from _format(request.format)
    if len(request.expected_head.log_hash) not in (0, 16):
        yield "expected_head.log_hash", "must have 16 bytes, or none for an empty log"
    if request.HasField("received") and len(request.received.attempt.nonce) != 16:
        yield "received.attempt.nonce", "must have 16 bytes"


def _messages(messages: Sequence[pb.Message]) -> Violations:
    if not messages:
        yield "messages", "must hold at least one user or tool message"
    for number, message in enumerate(messages):
        if message.role not in (pb.MESSAGE_ROLE_USER, pb.MESSAGE_ROLE_TOOL):
            yield (
                f"messages[{number}].role",
                "must be USER or TOOL; the system text belongs to OpenSession, and the model's own messages are "
                "in the log already",
            )
        if message.tool_calls:
            yield f"messages[{number}].tool_calls", "only the model makes calls; leave it empty"
        if len(message.name) > MAX_NAME_CHARS or len(message.tool_call_id) > MAX_NAME_CHARS:
            yield f"messages[{number}]", f"name and tool_call_id must have at most {MAX_NAME_CHARS} characters"


def _sampling(sampling: pb.Sampling) -> Violations:
    for name, low, high in _RANGES:
        value = getattr(sampling, name)
        if sampling.HasField(name) and not low <= value <= high:  # type: ignore[arg-type]  # a name of the message
            yield f"sampling.{name}", f"{value:g} must lie between {low:g} and {high:g}"
    if sampling.HasField("max_tokens") and sampling.min_tokens > sampling.max_tokens:
        yield "sampling.min_tokens", "must not be more than max_tokens"
    if len(sampling.stop) > MAX_STOPS or any(not 0 < len(text.encode()) <= MAX_STOP_BYTES for text in sampling.stop):
        yield "sampling.stop", f"must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_BYTES} bytes"
    if len(sampling.stop_token_ids) > MAX_STOP_IDS:
        yield "sampling.stop_token_ids", f"must be at most {MAX_STOP_IDS} ids"
    if len(sampling.logit_bias) > MAX_BIASES or not all(map(math.isfinite, sampling.logit_bias.values())):
        yield "sampling.logit_bias", f"must be at most {MAX_BIASES} finite numbers"


_LARGEST = float(2**32 - 1)
_RANGES = (
    ("temperature", 0.0, 100.0),
    ("top_p", 1e-9, 1.0),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("repetition_penalty", 1e-3, 100.0),
    ("max_tokens", 1.0, _LARGEST),
    ("logprobs", 0.0, float(MAX_LOGPROBS)),
)


def _format(form: pb.Format) -> Violations:
    choice = form.tool_choice
    if choice.name and choice.mode != pb.TOOL_CHOICE_MODE_REQUIRED:
        yield "format.tool_choice.name", "is only for mode REQUIRED"


class RoleLimits(Protocol):
    """What a role allows; 0 means no limit."""

    @property
    def name(self) -> str: ...

    @property
    def max_output_tokens(self) -> int: ...


def step_of_role(request: pb.StepRequest, role: RoleLimits) -> Violations:
    """What a step asks for and its role does not allow."""
    limit = role.max_output_tokens
    if limit and request.sampling.max_tokens > limit:
        yield "sampling.max_tokens", f"{request.sampling.max_tokens} is more than role {role.name!r} allows: {limit}"
