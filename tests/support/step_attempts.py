"""Attempts at steps as Begin leaves them; what a test is about is given, the rest is small and valid."""

import time
from dataclasses import replace
from typing import Any

from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import Message, MessageRole
from roost.contract.pool_document import PoolDocument
from roost.contract.steps import StepRequest
from roost.store.records import Began, Descriptor, State
from roost_gateway.admission.estimate import SessionFacts
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.call import StepCall
from roost_gateway.step.output import Outbox

FAR_SECONDS = 1e6
_EMPTY: dict[str, Any] = dict.fromkeys(Descriptor.__slots__, "")
_NUMBERS = {"epoch": 1, "prompt_tokens": 0, "output_tokens": 0, "generation": 1, "steps": 1}


def descriptor_of(session_id: str, **fields: Any) -> Descriptor:
    """An active session with one step of 100 tokens."""
    values = {**_EMPTY, **_NUMBERS, "session_id": session_id, "head": Head(100, b"h" * 16), "former": None}
    return Descriptor(**{**values, "tools": (), "attempt": None, "state": State.ACTIVE, **fields})


def attempt_of(
    pool: PoolDocument,
    session: Descriptor,
    *,
    cached_tokens: int = 0,
    began: Began | None = None,
    request: StepRequest | None = None,
    **call: Any,
) -> StepAttempt:
    """An attempt of the calling task at a step of one message."""
    now = time.monotonic()
    request = request or StepRequest(session.session_id, "s1", (Message(MessageRole.USER, "hello"),))
    values = {
        "tenant": "tenant",
        "facts": SessionFacts("", 0, True),
        "bytes_per_token": 4.0,
        "received_at": now,
        "deadline": now + FAR_SECONDS,
    }
    step = StepCall(**{"request": request, "pool": pool, "role": pool.role(""), **values, **call})
    began = began or Began(AttemptRef(1, b"n" * 16), 1, session, "", None, cached_tokens)
    return StepAttempt(step, began, Outbox())


def with_need(attempt: StepAttempt, **need: Any) -> StepAttempt:
    """The attempt with other figures of what it needs of a worker."""
    attempt.need = replace(attempt.need, **need)
    return attempt
