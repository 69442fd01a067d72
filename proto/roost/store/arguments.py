"""KEYS and ARGV of scripts about one session, and what their replies mean. Pure."""

import hashlib
from typing import Any

from roost.contract import loghash, names
from roost.contract.heads import Head
from roost.contract.names import PoolKeys
from roost.store import codec
from roost.store.link import Arg
from roost.store.records import (
    BeginRequest,
    CommitRequest,
    Descriptor,
    MigrateRequest,
)
from roost.store.refusals import WORDS, refused

ID_BYTES = 4


def pool_keys(session_id: str) -> PoolKeys:
    """The keys of a session's pool. Raises ValueError when it is no session's name."""
    pool = names.pool_of(session_id)
    if pool is None:
        raise ValueError(f"{session_id!r} is no session's name; `roost.contract.names.new_session_id` makes them")
    return PoolKeys(pool)


def session_keys(keys: PoolKeys, session_id: str, generations: int) -> list[str]:
    """Every key of a session that has `generations` logs, in the order of `_common.lua`."""
    found = [keys.session(session_id), keys.steps(session_id)]
    for generation in range(codec.FIRST_GENERATION, codec.FIRST_GENERATION + generations):
        found += [keys.log(session_id, generation), keys.ids(session_id, generation)]
    return found


def request_digest(request_id: str) -> str:
    """A request id as part of a key: of fixed form, so that no client can name another tenant's key."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()


def begin_args(request: BeginRequest, aging_ms: int, residency_delay_ms: int) -> list[Arg]:
    return [
        request.tenant,
        request.step_id,
        request.digest.hex(),
        *codec.encode_head(request.expected_head),
        request.nonce.hex(),
        request.seed,
        request.lease_ms,
        request.new_tokens,
        request.max_session_tokens,
        request.budget_tokens,
        request.max_steps,
        request.priority,
        request.deadline_ms,
        aging_ms,
        request.expected_generation,
        request.migrates_to,
        request.session_id,
        residency_delay_ms,
    ]


def migrate_args(request: MigrateRequest) -> list[Arg]:
    """Raises ValueError when entries, ids and head of the request contradict one another."""
    _check_migration(request)
    return [
        request.ref.epoch,
        request.ref.nonce.hex(),
        *codec.encode_head(request.previous),
        *codec.encode_head(request.entries[-1].head),
        request.model_revision,
        request.ttl_ms,
        request.lease_ms,
        request.packed_ids,
        *(f"{entry.commit_ms}:".encode() + codec.encode_entry(entry) for entry in request.entries),
    ]


def _check_migration(request: MigrateRequest) -> None:
    head, at = Head(), 0
    for entry in request.entries:
        end = at + (entry.prompt_tokens + entry.output_tokens) * ID_BYTES
        head = Head(end // ID_BYTES, loghash.extend(head.log_hash, request.packed_ids[at:end]))
        if entry.head != head:
            raise ValueError(f"step {entry.step_id}: its head is {entry.head}, but its ids lead to {head}")
        at = end
    if not request.entries or at != len(request.packed_ids):
        raise ValueError(f"{len(request.entries)} steps of {at} bytes of ids, but {len(request.packed_ids)} are given")


def commit_args(request: CommitRequest) -> list[Arg]:
    """Raises ValueError when ids, counts and head of the request contradict one another."""
    _check_commit(request)
    entry = request.entry
    return [
        request.ref.epoch,
        request.ref.nonce.hex(),
        entry.step_id,
        *codec.encode_head(request.previous),
        *codec.encode_head(entry.head),
        codec.encode_entry(entry),
        request.packed_ids,
        request.ttl_ms,
        request.owner,
        entry.prompt_tokens,
        entry.output_tokens,
        entry.cached_tokens,
        entry.reconstructed_tokens,
        entry.model_revision,
    ]


def _check_commit(request: CommitRequest) -> None:
    entry, count = request.entry, len(request.packed_ids) // ID_BYTES
    if len(request.packed_ids) % ID_BYTES or entry.prompt_tokens + entry.output_tokens != count:
        raise ValueError(
            f"step {entry.step_id}: {len(request.packed_ids)} bytes of ids for "
            f"{entry.prompt_tokens} prompt and {entry.output_tokens} output tokens"
        )
    previous = request.previous
    right = Head(previous.length + count, loghash.extend(previous.log_hash, request.packed_ids))
    if entry.head != right:
        raise ValueError(f"step {entry.step_id}: its head is {entry.head}, but its ids lead to {right}")


def accepted(reply: list[Any]) -> list[Any]:
    """The reply, when the script did what was asked. Raises Refused when it refused."""
    if reply[0] != b"refused":
        return reply
    _, why, retry_ms, length, log_hash, message = reply
    head = Head(int(length), bytes.fromhex(log_hash.decode()))
    raise refused(WORDS[why.decode()], retry_ms=retry_ms, head=head, detail=message.decode())


def described(session_id: str, reply: list[Any]) -> Descriptor:
    """The descriptor in a reply of the form {word, now, descriptor, …}."""
    return codec.decode_descriptor(session_id, codec.pairs(reply[2]), reply[1])
