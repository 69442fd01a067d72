"""How many tokens a step may need, estimated before a worker has rendered it. Pure.

Estimates only steer admission: memory is safe because of the worker's block pool, and only the worker knows exactly
whether a step is too long. So limits are applied in the session's favour here: a step is refused only when there is no
room for a single token.
"""

import hashlib
import json
from dataclasses import dataclass

from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.steps import StepRequest
from roost.store.records import Descriptor

MESSAGE_TOKENS = 8
"""Tokens of template around a message."""
DEFAULT_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a step needs to know of its session before the session's record is read."""

    role: str
    static_bytes: int
    """Size of system text and tools, which the first step renders."""
    continues: bool = False
    """Whether a step is known to be committed."""
    task: str = ""
    """Empty: the session has none."""
    prefix: str = ""
    """Hash of tenant, system text and tools, in hex: sessions with equal ones share their KV."""


def facts_of(descriptor: Descriptor) -> SessionFacts:
    tools = sum(len(tool[part]) for tool in descriptor.tools for part in ("name", "description", "parameters"))
    size, continues = len(descriptor.system.encode()) + tools, descriptor.head.length > 0
    prefix = _prefix_of(descriptor) if size else ""
    return SessionFacts(descriptor.role, size, continues, descriptor.task, prefix)


def _prefix_of(descriptor: Descriptor) -> str:
    text = json.dumps([descriptor.tenant, descriptor.system, descriptor.tools], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"roost.prefix").hexdigest()


def max_output_tokens(request: StepRequest, pool: PoolDocument, role: PoolRole) -> int:
    """Most tokens to generate: what the client asked for, else the role's limit, else the context."""
    if request.sampling.max_tokens is not None:
        return request.sampling.max_tokens
    return role.max_output_tokens or pool.token_limit or 1024


def prompt_tokens(request: StepRequest, facts: SessionFacts, bytes_per_token: float) -> int:
    """Estimate of the rendered prompt. The system text counts when the client knows of no step yet."""
    size = sum(len(message.content) for message in request.messages)
    size += sum(len(call.name + call.arguments_json) for message in request.messages for call in message.tool_calls)
    knows_steps = request.expected_head is not None and request.expected_head.length > 0
    if not (knows_steps or facts.continues):
        size += facts.static_bytes
    per_token = bytes_per_token if bytes_per_token > 0 else DEFAULT_BYTES_PER_TOKEN
    return int(size / per_token) + MESSAGE_TOKENS * (len(request.messages) + 1)


def prefix_tokens(facts: SessionFacts, bytes_per_token: float) -> int:
    """Estimate of what system text and tools are in tokens."""
    return int(facts.static_bytes / (bytes_per_token if bytes_per_token > 0 else DEFAULT_BYTES_PER_TOKEN))


def new_tokens(prompt: int, output: int, log: int, limit: int) -> int:
    """Prompt and output, cut to what the log's limit leaves (0: no limit)."""
    return max(1, min(prompt + output, limit - log)) if limit else prompt + output


def lenient(limit: int, estimate: int) -> int:
    """The limit to pass to Begin, which refuses when the log or the tokens used + `estimate` exceed it: it then refuses
    only when the log or the budget is full."""
    return limit + estimate - 1 if limit else 0


def clipped_output(wanted: int, prompt: int, left: int | None) -> int:
    """`wanted`, cut to what a budget leaves after the prompt (None: no budget); at least 1."""
    return wanted if left is None else max(1, min(wanted, left - prompt))
