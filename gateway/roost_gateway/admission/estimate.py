"""How many tokens a step may need, before anybody has rendered it. Pure.

The ledger only steers; memory safety is the worker's block pool, and the exact refusal of a step that is too long is
the worker's too. So limits are checked here in the session's favour: refused is only what has no room for one token.
"""

from dataclasses import dataclass

from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.steps import StepRequest
from roost.store.records import Descriptor

MESSAGE_TOKENS = 8
"""Tokens of template around a message."""
DEFAULT_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What is needed of a session before its record is read."""

    role: str
    static_bytes: int
    """Of system text and tools, which the first step renders."""
    continues: bool = False
    """Whether a step is known to be committed; it stays so once it is."""


def facts_of(descriptor: Descriptor) -> SessionFacts:
    tools = sum(len(text) for tool in descriptor.tools for text in tool.values())
    return SessionFacts(descriptor.role, len(descriptor.system.encode()) + tools, descriptor.head.length > 0)


def max_output_tokens(request: StepRequest, pool: PoolDocument, role: PoolRole) -> int:
    """Most tokens to generate: what the client asked for, else the role's limit, else the context."""
    if request.sampling.max_tokens is not None:
        return request.sampling.max_tokens
    return role.max_output_tokens or pool.token_limit or 1024


def prompt_tokens(request: StepRequest, facts: SessionFacts, bytes_per_token: float) -> int:
    """Estimate of the rendered prompt. The system text counts when the client knows of no step yet."""
    size = sum(len(message.content) for message in request.messages)
    knows_steps = request.expected_head is not None and request.expected_head.length > 0
    if not (knows_steps or facts.continues):
        size += facts.static_bytes
    per_token = bytes_per_token if bytes_per_token > 0 else DEFAULT_BYTES_PER_TOKEN
    return int(size / per_token) + MESSAGE_TOKENS * (len(request.messages) + 1)


def new_tokens(prompt: int, output: int, log: int, limit: int) -> int:
    """Prompt and output, cut to what the log's limit leaves (0: no limit)."""
    return max(1, min(prompt + output, limit - log)) if limit else prompt + output


def lenient(limit: int, estimate: int) -> int:
    """A limit for Begin, which refuses when what there is + `estimate` is more: only a full log or budget then does."""
    return limit + estimate - 1 if limit else 0


def clipped_output(wanted: int, prompt: int, left: int | None) -> int:
    """`wanted`, cut to what a budget leaves after the prompt (None: no budget); at least 1."""
    return wanted if left is None else max(1, min(wanted, left - prompt))
