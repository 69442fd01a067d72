"""The stored result of a step that had been committed before, told again. Pure."""

from collections.abc import Sequence

from roost.contract.heads import AttemptRef
from roost.contract.loghash import unpack_ids
from roost.store.records import AlreadyCommitted, LogEntry
from roost.v1 import session_service_pb2 as pb
from roost_gateway.convert import attempt_to_proto, head_to_proto, message_to_proto, usage
from roost_gateway.step.outbox import Outbox
from roost_gateway.step.output import StepOutput


def committed_event(
    entry: LogEntry,
    generation: int,
    *,
    queue_ms: int = 0,
    first_token_ms: int = 0,
    failovers: int = 0,
    replayed: bool = False,
) -> pb.StepCommitted:
    """The last event of a step."""
    return pb.StepCommitted(
        output=message_to_proto(entry.output),
        finish_reason=pb.FinishReason.Value(entry.finish_reason),
        usage=usage(entry),
        head=head_to_proto(entry.head, generation),
        index=entry.index,
        queue_ms=queue_ms,
        first_token_ms=first_token_ms,
        seed=entry.seed,
        replayed=replayed,
        output_tokens=entry.output_tokens,
        failovers=failovers,
    )


def lineage_to_record(lineage: Sequence[AttemptRef]) -> list[list[object]]:
    """The attempts whose output was committed, oldest first: a client that has some of it needs only the rest."""
    return [[ref.epoch, ref.nonce.hex()] for ref in lineage]


def replay(stored: AlreadyCommitted, received: pb.Cursor | None, outbox: Outbox) -> None:
    """Sends what the client lacks of a committed step. Output of an attempt that did not commit is void."""
    lineage = _lineage(stored.entry)
    output = StepOutput(attempt_to_proto(lineage[-1]))
    output.ids = unpack_ids(stored.output_ids)
    output.text = bytearray(stored.entry.output["text"].encode())
    if received is not None and (received.tokens or received.text_bytes):
        output.client_has(received)
        nonces = {ref.nonce for ref in lineage}
        if received.attempt.nonce not in nonces or output.behind_client:
            outbox.restarted(output, "the step was committed by another attempt")
    outbox.committed(committed_event(stored.entry, stored.generation, replayed=True), output)


def _lineage(entry: LogEntry) -> list[AttemptRef]:
    recorded = entry.output.get("attempts") or [[0, "00" * 16]]
    return [AttemptRef(int(epoch), bytes.fromhex(nonce)) for epoch, nonce in recorded]
