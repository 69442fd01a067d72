"""A log on its way to another revision: what a worker is given to render, and what the store is given to keep. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from roost.contract.heads import Head
from roost.contract.loghash import extend
from roost.store.records import Began, Descriptor, LogEntry, MigrateRequest
from roost.store.rules import ID_BYTES
from roost.v1.worker_service_pb2 import RenderRequest, StepText, StepTokens
from roost_gateway.convert import message_to_proto, tool_to_proto
from roost_gateway.step.attempts import LEASE_MS

PIECE_BYTES = 1024 * 1024
"""Of the steps in one request; a single larger one goes alone."""


def pieces(entries: Sequence[LogEntry]) -> Iterator[list[StepText]]:
    """The steps to render, cut into requests of bounded size."""
    piece, size = list[StepText](), 0
    for entry in entries:
        step = StepText(
            messages=[message_to_proto(message) for message in entry.messages],
            output=message_to_proto(entry.output),
            text=entry.output["text"],
        )
        if piece and size + step.ByteSize() > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(step)
        size += step.ByteSize()
    if piece:
        yield piece


def render_request(
    descriptor: Descriptor, revision: str, piece: Sequence[StepText], before: Sequence[StepTokens]
) -> RenderRequest:
    """What a worker is asked after it has rendered `before`."""
    return RenderRequest(
        model_revision=revision,
        system=descriptor.system,
        tools=[tool_to_proto(tool) for tool in descriptor.tools],
        steps_before=len(before),
        tokens_before=sum(_length(step) for step in before),
        steps=piece,
    )


def _length(step: StepTokens) -> int:
    return (len(step.prompt_token_ids) + len(step.output_token_ids)) // ID_BYTES


def migrate_request(
    began: Began, entries: Sequence[LogEntry], rendered: Sequence[StepTokens], revision: str, ttl_ms: int
) -> MigrateRequest:
    """The same steps in other tokens. Raises ValueError when a step, a prompt or half an id is missing."""
    packed, head, anew = bytearray(), Head(), list[LogEntry]()
    for entry, tokens in zip(entries, rendered, strict=True):
        if not tokens.prompt_token_ids or (len(tokens.prompt_token_ids) | len(tokens.output_token_ids)) % ID_BYTES:
            raise ValueError(f"step {entry.step_id} was rendered without a prompt, or to half an id")
        ids = tokens.prompt_token_ids + tokens.output_token_ids
        head = Head(head.length + len(ids) // ID_BYTES, extend(head.log_hash, ids))
        packed += ids
        anew.append(
            replace(
                entry,
                prompt_tokens=len(tokens.prompt_token_ids) // ID_BYTES,
                output_tokens=len(tokens.output_token_ids) // ID_BYTES,
                cached_tokens=0,
                reconstructed_tokens=0,
                head=head,
                model_revision=revision,
                worker_id="",
            )
        )
    return MigrateRequest(
        session_id=began.descriptor.session_id,
        ref=began.ref,
        previous=began.descriptor.head,
        entries=tuple(anew),
        packed_ids=bytes(packed),
        model_revision=revision,
        ttl_ms=ttl_ms,
        lease_ms=LEASE_MS,
    )
