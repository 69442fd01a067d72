"""What every gateway refuses of a request before it asks its store.

Each violation names the field, as `roost.v1` spells it, and the fix. Pure.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from roost.contract.budgets import BudgetExtension, BudgetScope, BudgetUnit, OnBudget, RoleBudgets
from roost.contract.heads import NONCE_BYTES, Head
from roost.contract.loghash import HASH_BYTES
from roost.contract.messages import (
    TOOL_NAME,
    Format,
    JsonSchema,
    Message,
    MessageRole,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from roost.contract.names import is_pool
from roost.contract.sessions import FoldRequest, ForkRequest, OpenRequest
from roost.contract.steps import StepRequest

Violations = Iterator[tuple[str, str]]
"""Fields, and what is wrong with each."""

_KEY = re.compile(r"[\x21-\x7e]{1,64}")
MAX_LABELS, MAX_LABEL_CHARS = 16, 63
MAX_STOPS, MAX_STOP_BYTES, MAX_STOP_IDS, MAX_BIASES, MAX_LOGPROBS = 16, 256, 64, 300, 20
MAX_NAME_CHARS = 256
MAX_SYSTEM_BYTES = 1024 * 1024
MAX_HOLD_SECONDS = 1e9
MAX_EXTENSION = 1e9
"""Most tokens, steps or seconds that one call adds to a budget."""
MAX_PAGE_SESSIONS, MAX_PAGE_STEPS = 1000, 100


def open_session(request: OpenRequest) -> Violations:
    """Violations of a new session, except those of its tools' schemas. How many tools there may be is the context's
    matter (STEP_TOO_LONG), and before that of the bytes that a transport takes."""
    if request.pool and not is_pool(request.pool):
        yield "pool", f"{request.pool[:100]!r} is not a pool's name; write namespace/name"
    yield from _request_id(request.request_id)
    if len(request.system.encode()) > MAX_SYSTEM_BYTES:
        yield "system", f"is longer than {MAX_SYSTEM_BYTES} bytes"
    for name, text in (("task", request.task), ("role", request.role), ("parent_session_id", request.parent)):
        if len(text) > MAX_NAME_CHARS:
            yield name, f"is longer than {MAX_NAME_CHARS} characters"
    yield from _labels(request.labels)
    yield from _tools(request.tools)


def fork_session(request: ForkRequest) -> Violations:
    """Violations of a fork."""
    yield from _request_id(request.request_id)
    if len(request.task) > MAX_NAME_CHARS:
        yield "task", f"is longer than {MAX_NAME_CHARS} characters"
    yield from _labels(request.labels)
    yield from _head("at", request.at)


def _request_id(request_id: str) -> Violations:
    if request_id and not _KEY.fullmatch(request_id):
        yield "request_id", "must be 1 to 64 printable ASCII characters without spaces"


def _head(name: str, head: Head | None) -> Violations:
    if head is not None and len(head.log_hash) not in (0, HASH_BYTES):
        yield f"{name}.log_hash", "must have 16 bytes, or none for an empty log"


def _labels(labels: Mapping[str, str]) -> Violations:
    if len(labels) > MAX_LABELS:
        yield "labels", f"there are {len(labels)}; at most {MAX_LABELS} are kept"
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL_CHARS or len(value) > MAX_LABEL_CHARS:
            yield f"labels[{key[:MAX_LABEL_CHARS]}]", f"key and value must have at most {MAX_LABEL_CHARS} characters"


def _tools(tools: Sequence[ToolDefinition]) -> Violations:
    names: set[str] = set()
    for number, tool in enumerate(tools):
        if not TOOL_NAME.fullmatch(tool.name):
            yield f"tools[{number}].name", f"{tool.name[:100]!r} must match {TOOL_NAME.pattern}"
        elif tool.name in names:
            yield f"tools[{number}].name", f"{tool.name!r} is given twice"
        names.add(tool.name)


def schemas_of_tools(tools: Sequence[ToolDefinition]) -> Violations:
    """Violations of the tools' schemas, for `Reason.INVALID_SCHEMA`."""
    for number, tool in enumerate(tools):
        why = _schema_fault(tool.parameters_json) if tool.parameters_json else None
        if why:
            yield f"tools[{number}].parameters_json", why


def schema_of_step(request: StepRequest) -> Violations:
    """Violations of a step's schema, for `Reason.INVALID_SCHEMA`."""
    why = _schema_fault(request.format.text) if isinstance(request.format, JsonSchema) else None
    if why:
        yield "format.json_schema", why


def _schema_fault(text: str) -> str | None:
    """What is wrong with a JSON schema at first sight; the worker decides whether it can be enforced."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return None if isinstance(schema, dict | bool) else "is not a JSON schema: it must be an object"


def hold(tool: str, expect_seconds: float) -> Violations:
    """Violations of an announced pause."""
    if not 0 <= expect_seconds < MAX_HOLD_SECONDS:
        yield "expect_seconds", "must be 0 (unknown) or a positive number of seconds"
    if len(tool) > MAX_NAME_CHARS:
        yield "tool", f"is longer than {MAX_NAME_CHARS} characters"


def fold_session(request: FoldRequest) -> Violations:
    """Violations of a fold."""
    yield from _request_id(request.request_id)
    if len(request.summary.encode()) > MAX_SYSTEM_BYTES:
        yield "summary", f"is longer than {MAX_SYSTEM_BYTES} bytes"
    yield from _head("expected_head", request.expected_head)


def extend_budget(extension: BudgetExtension) -> Violations:
    """Violations of an extension, except those of the session's role."""
    yield from _request_id(extension.request_id)
    if extension.scope not in (BudgetScope.SESSION, BudgetScope.TASK):
        yield "scope", "must be SESSION or TASK; budgets of roles and tenants begin again with their windows"
    for unit in BudgetUnit:
        added = getattr(extension, unit.value)
        if not 0 <= added <= MAX_EXTENSION:
            yield unit.value, f"{added:g} must lie between 0 and {MAX_EXTENSION:g}"
    if not any(getattr(extension, unit.value) for unit in BudgetUnit):
        yield "tokens", f"must be given, or another of {', '.join(BudgetUnit)}: what to add"


def extension_of_role(extension: BudgetExtension, role: str, budgets: RoleBudgets, task: str) -> Violations:
    """What an extension asks for and the session's role, whose budgets these are, does not allow. `task` is the
    session's."""
    limits = budgets.task if extension.scope is BudgetScope.TASK else budgets.session
    if budgets.on_budget is not OnBudget.ASK:
        yield "session_id", f"role {role!r} lets nobody extend its budgets; set budgets.onBudget of the role to Ask"
    if extension.scope is BudgetScope.TASK and not task:
        yield "scope", "the session has no task"
    for unit in BudgetUnit:
        if getattr(extension, unit.value) and not getattr(limits, unit.value):
            yield unit.value, f"role {role!r} does not limit it for a {extension.scope}"


def page_size(asked: int, most: int) -> Violations:
    """Violations of a list's `page_size`."""
    if asked > most:
        yield "page_size", f"{asked} is more than {most}"


def step(request: StepRequest) -> Violations:
    """Violations of a step, except those of its schema and its role."""
    if not _KEY.fullmatch(request.step_id):
        yield "step_id", "must be 1 to 64 printable ASCII characters without spaces"
    yield from _messages(request.messages)
    yield from _sampling(request.sampling)
    yield from _format(request.format)
    yield from _head("expected_head", request.expected_head)
    if request.received is not None and len(request.received.attempt.nonce) != NONCE_BYTES:
        yield "received.attempt.nonce", "must have 16 bytes"


def _messages(messages: Sequence[Message]) -> Violations:
    if not messages:
        yield "messages", "must hold at least one user, tool or system message"
    elif messages[-1].role is MessageRole.ASSISTANT:
        yield (
            f"messages[{len(messages) - 1}].role",
            "the last message must be USER, TOOL or SYSTEM: the model answers it",
        )
    for number, message in enumerate(messages):
        if message.role is MessageRole.UNSPECIFIED:
            yield f"messages[{number}].role", "must be SYSTEM, USER, ASSISTANT or TOOL"
        if message.tool_calls and message.role is not MessageRole.ASSISTANT:
            yield f"messages[{number}].tool_calls", "only ASSISTANT messages hold calls; leave it empty"
        if len(message.name) > MAX_NAME_CHARS or len(message.tool_call_id) > MAX_NAME_CHARS:
            yield f"messages[{number}]", f"name and tool_call_id must have at most {MAX_NAME_CHARS} characters"
        for place, call in enumerate(message.tool_calls):
            if not 0 < len(call.name) <= MAX_NAME_CHARS or len(call.id) > MAX_NAME_CHARS:
                yield (
                    f"messages[{number}].tool_calls[{place}]",
                    f"name must have 1 to {MAX_NAME_CHARS} characters, and id at most {MAX_NAME_CHARS}",
                )


def _sampling(sampling: Sampling) -> Violations:
    for name, low, high in _RANGES:
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:
            yield f"sampling.{name}", f"{value:g} must lie between {low:g} and {high:g}"
    if sampling.max_tokens is not None and (sampling.min_tokens or 0) > sampling.max_tokens:
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


def _format(constraint: Format | None) -> Violations:
    if isinstance(constraint, ToolChoice) and constraint.name and constraint.mode is not ToolChoiceMode.REQUIRED:
        yield "format.tool_choice.name", "is only for mode REQUIRED"


class RoleLimits(Protocol):
    """What a role allows; 0 means no limit."""

    @property
    def name(self) -> str: ...

    @property
    def max_output_tokens(self) -> int: ...


def step_of_role(request: StepRequest, role: RoleLimits) -> Violations:
    """What a step asks for and its role does not allow."""
    limit, wanted = role.max_output_tokens, request.sampling.max_tokens or 0
    if limit and wanted > limit:
        yield "sampling.max_tokens", f"{wanted} is more than role {role.name!r} allows: {limit}"
