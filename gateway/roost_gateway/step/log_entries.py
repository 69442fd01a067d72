"""From outputs to the entries of a session's log, and from an entry to what its client hears. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from roost.contract.events import Committed, Usage
from roost.contract.heads import AttemptRef, Head
from roost.contract.loghash import extend, pack_ids, unpack_ids
from roost.contract.steps import StepRequest
from roost.store.arguments import ID_BYTES
from roost.store.records import AlreadyCommitted, CommitRequest, LogEntry, MigrateRequest
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.call import LEASE_MS
from roost_gateway.step.output import Finish, Outbox, RenderedStep, StepOutput
from roost_gateway.stored_values import (
    finish_reason_from_record,
    finish_reason_to_record,
    format_to_record,
    message_from_record,
    message_to_record,
    sampling_to_record,
    tool_calls_to_record,
)

_NO_LINEAGE = ((0, "00" * 16),)
"""Of entries that were written before attempts were kept in them."""


def commit_request(attempt: StepAttempt, finish: Finish, worker_id: str) -> CommitRequest:
    """What Commit writes: the entry, the ids, and the log's hash over them."""
    request, descriptor, output = attempt.call.request, attempt.descriptor, attempt.output
    packed = pack_ids(output.prompt_ids) + pack_ids(output.ids)
    head = Head(descriptor.head.length + len(packed) // ID_BYTES, extend(descriptor.head.log_hash, packed))
    entry = LogEntry(
        step_id=request.step_id,
        index=descriptor.steps,
        messages=tuple(map(message_to_record, request.messages)),
        output=_output_record(output, finish),
        finish_reason=finish_reason_to_record(finish.reason),
        prompt_tokens=len(output.prompt_ids),
        output_tokens=len(output.ids),
        cached_tokens=finish.cached_tokens,
        reconstructed_tokens=_reconstructed(descriptor.head.length, finish.cached_tokens),
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
        ttl_ms=attempt.pool.idle_ttl_ms,
        owner=worker_id,
    )


def _reconstructed(log_tokens: int, cached_tokens: int) -> int:
    """Tokens of the log that were computed again. The last token of a log is always the next step's to compute."""
    return max(0, log_tokens - 1 - cached_tokens)


def _output_record(output: StepOutput, finish: Finish) -> dict[str, object]:
    """The generated message. `attempts` are those whose output it is: a client that has some of it needs only the
    rest."""
    return {
        "role": "assistant",
        "content": finish.content,
        "tool_calls": tool_calls_to_record(finish.tool_calls),
        "text": output.text.decode(),
        "attempts": [[ref.epoch, ref.nonce.hex()] for ref in output.lineage],
        **({"warnings": list(finish.warnings)} if finish.warnings else {}),
    }


def migrate_request(
    attempt: StepAttempt, entries: Sequence[LogEntry], rendered: Sequence[RenderedStep]
) -> MigrateRequest:
    """What Migrate writes: the same steps in the tokens of the revision that the attempt needs.

    Raises ValueError when a step or a prompt is missing, or ids are cut off.
    """
    packed, head, migrated = bytearray(), Head(), list[LogEntry]()
    for entry, step in zip(entries, rendered, strict=True):
        if not step.prompt_ids or (len(step.prompt_ids) | len(step.output_ids)) % ID_BYTES:
            raise ValueError(f"step {entry.step_id} was rendered without a prompt, or to half an id")
        ids = step.prompt_ids + step.output_ids
        head = Head(head.length + len(ids) // ID_BYTES, extend(head.log_hash, ids))
        packed += ids
        migrated.append(
            replace(
                entry,
                prompt_tokens=len(step.prompt_ids) // ID_BYTES,
                output_tokens=len(step.output_ids) // ID_BYTES,
                cached_tokens=0,
                reconstructed_tokens=0,
                head=head,
                model_revision=attempt.need.model_revision,
                worker_id="",
            )
        )
    return MigrateRequest(
        session_id=attempt.session_id,
        ref=attempt.ref,
        previous=attempt.descriptor.head,
        entries=tuple(migrated),
        packed_ids=bytes(packed),
        model_revision=attempt.need.model_revision,
        ttl_ms=attempt.pool.idle_ttl_ms,
        lease_ms=LEASE_MS,
    )


def committed_event(attempt: StepAttempt, entry: LogEntry) -> Committed:
    """The last event of a step that this attempt committed."""
    return replace(
        _committed(entry, attempt.descriptor.generation),
        queue_ms=int(attempt.clock.queue_seconds * 1000),
        first_token_ms=int(attempt.clock.first_token_seconds * 1000),
        failovers=attempt.failovers,
    )


def _committed(entry: LogEntry, generation: int) -> Committed:
    return Committed(
        step_id=entry.step_id,
        output=message_from_record(entry.output),
        finish_reason=finish_reason_from_record(entry.finish_reason),
        usage=Usage(entry.prompt_tokens, entry.output_tokens, entry.cached_tokens, entry.reconstructed_tokens),
        head=replace(entry.head, generation=generation),
        index=entry.index,
        queue_ms=0,
        first_token_ms=0,
        seed=entry.seed,
        replayed=False,
        output_tokens=entry.output_tokens,
        failovers=0,
        warnings=tuple(entry.output.get("warnings", ())),
    )


def replay(stored: AlreadyCommitted, request: StepRequest, outbox: Outbox) -> None:
    """Sends what the client lacks of a step that had been committed before. Output of an attempt that did not commit is
    void."""
    attempts = stored.entry.output.get("attempts") or _NO_LINEAGE
    lineage = [AttemptRef(int(epoch), bytes.fromhex(nonce)) for epoch, nonce in attempts]
    output = StepOutput(lineage[-1], request.received)
    output.ids = unpack_ids(stored.output_ids)
    output.text = bytearray(stored.entry.output["text"].encode())
    if output.client_attempt is not None:
        nonces = {ref.nonce for ref in lineage}
        if output.client_attempt.nonce not in nonces or output.behind_client:
            outbox.restarted(output, "the step was committed by another attempt")
    outbox.committed(replace(_committed(stored.entry, stored.generation), replayed=True), output)
