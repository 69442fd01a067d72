"""Commit: what is written at the end of a step, how long that is tried, and the event that its client gets."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from roost.contract.events import Committed, Part
from roost.contract.heads import AttemptRef, Head
from roost.contract.loghash import extend, pack_ids, unpack_ids
from roost.contract.parts import parts_of_message
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepRequest
from roost.fault_points import fault_point
from roost.store.interface import SessionStore
from roost.store.records import AlreadyCommitted, CommitRequest, LogEntry, StoreAwayError
from roost.store.rules import ID_BYTES
from roost.store.values import (
    finish_reason_to_record,
    format_to_record,
    message_from_record,
    message_to_record,
    parts_from_record,
    parts_to_record,
    sampling_to_record,
    tool_calls_to_record,
    why_to_record,
)
from roost.store.views import committed as committed_event
from roost_gateway.errors import STORE_RETRY_SECONDS
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.explanation import explain, rebuilt_tokens
from roost_gateway.step.output import Outbox, StepOutcome, StepOutput

COMMIT_PATIENCE_SECONDS = 30.0
"""How long after the step's deadline a commit is still tried while the store is away."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5
_NO_LINEAGE = ((0, "00" * 16),)
"""Of entries that were written before attempts were kept in them."""


async def commit(
    store: SessionStore, attempt: StepAttempt, worker_id: str, learn: Callable[[StepAttempt, int], None]
) -> Committed:
    """Commits the output that a worker has finished, and puts `Committed` into the outbox. Tries again while the store
    is away; the script is idempotent by the attempt's nonce. `learn` takes the tenant's counter.

    Raises Refused: what the store refuses, or COMMIT_UNKNOWN when the store stayed away.
    """
    attempt.commits()
    request = commit_request(attempt, worker_id)
    wait, give_up = _FIRST_WAIT, attempt.call.deadline + COMMIT_PATIENCE_SECONDS
    while True:
        try:
            async with asyncio.timeout(max(0.1, give_up - time.monotonic())):
                entry = await store.commit(request)
                break
        except (StoreAwayError, TimeoutError) as error:
            if time.monotonic() + wait >= give_up:
                raise _unknown() from error
        await asyncio.sleep(wait)
        wait = min(_LONGEST_WAIT, wait * 2)
    fault_point("gateway.commit.done")
    learn(attempt, entry.counter)
    committed = replace(
        committed_event(entry, attempt.descriptor.generation, replayed=False),
        queue_ms=int(attempt.clock.queue_seconds * 1000),
        first_token_ms=int(attempt.clock.first_token_seconds * 1000),
        failovers=attempt.failovers,
    )
    attempt.outbox.committed(committed, attempt.output)
    return committed


def _unknown() -> Refused:
    return Refused(
        Reason.COMMIT_UNKNOWN,
        "the step is complete, but the store did not confirm it; repeat the same step_id to learn the outcome",
        retry_seconds=STORE_RETRY_SECONDS,
    )


def commit_request(attempt: StepAttempt, worker_id: str) -> CommitRequest:
    """What Commit writes: the entry, the ids, and the log's hash over them."""
    request, descriptor, output, finish = (
        attempt.call.request,
        attempt.descriptor,
        attempt.output,
        attempt.output.finished,
    )
    assert finish is not None, "a step is generated before it is committed"
    packed = pack_ids(output.prompt_ids) + pack_ids(output.ids)
    head = Head(descriptor.head.length + len(packed) // ID_BYTES, extend(descriptor.head.log_hash, packed))
    why = explain(attempt, worker_id, finish.cached_tokens, finish.kv)
    entry = LogEntry(
        step_id=request.step_id,
        index=descriptor.steps,
        messages=tuple(map(message_to_record, request.messages)),
        output=_output_record(output, finish) | {"why": why_to_record(why)},
        finish_reason=finish_reason_to_record(finish.reason),
        prompt_tokens=len(output.prompt_ids),
        output_tokens=len(output.ids),
        cached_tokens=finish.cached_tokens,
        reconstructed_tokens=rebuilt_tokens(descriptor.head.length, finish.cached_tokens),
        head=head,
        seed=attempt.began.seed,
        sampling=sampling_to_record(request.sampling),
        format=format_to_record(request.format),
        model_revision=attempt.model_revision,
        worker_id=worker_id,
    )
    return CommitRequest(
        session_id=descriptor.session_id,
        ref=attempt.ref,
        previous=descriptor.head,
        entry=entry,
        packed_ids=packed,
        ttl_ms=attempt.call.ttl_ms,
        owner=worker_id,
        rules=attempt.call.budget_rules,
    )


def _output_record(output: StepOutput, finish: StepOutcome) -> dict[str, object]:
    """The generated message. `attempts` are those whose output it is: a client that has some of it needs only the
    rest. `parts` are there when the message does not say what was sent as parts, as with text after a call."""
    parts = output.parts.after(0)
    return {
        "role": "assistant",
        "content": finish.content,
        "tool_calls": tool_calls_to_record(finish.tool_calls),
        "text": output.text.decode(),
        "attempts": [[ref.epoch, ref.nonce.hex()] for ref in output.lineage],
        **({"warnings": list(finish.warnings)} if finish.warnings else {}),
        **({"reasoning": finish.reasoning} if finish.reasoning else {}),
        **({"gpu_seconds": finish.gpu_seconds} if finish.gpu_seconds else {}),
        **({"reasoning_tokens": finish.reasoning_tokens} if finish.reasoning_tokens else {}),
        **({"stop_string": finish.stop_string} if finish.stop_string else {}),
        **({"parts": parts_to_record(parts)} if parts != finish.parts else {}),
    }


def replay(stored: AlreadyCommitted, request: StepRequest, outbox: Outbox) -> None:
    """Sends what the client lacks of a step that had been committed before. Output of an attempt that did not commit is
    void."""
    attempts = stored.entry.output.get("attempts") or _NO_LINEAGE
    lineage = [AttemptRef(int(epoch), bytes.fromhex(nonce)) for epoch, nonce in attempts]
    output = StepOutput(lineage[-1], request.received)
    output.ids = unpack_ids(stored.output_ids)
    output.text = bytearray(stored.entry.output["text"].encode())
    output.parts.extend(_stored_parts(stored.entry.output))
    if output.client_attempt is not None:
        nonces = {ref.nonce for ref in lineage}
        if output.client_attempt.nonce not in nonces or output.behind_client:
            outbox.restarted(output, "the step was committed by another attempt")
    outbox.committed(committed_event(stored.entry, stored.generation, replayed=True), output)


def _stored_parts(record: Mapping[str, Any]) -> tuple[Part, ...]:
    if "parts" in record:
        return parts_from_record(record["parts"])
    message = message_from_record(record)
    return parts_of_message(message.content, record.get("reasoning", ""), message.tool_calls)
