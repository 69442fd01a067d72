"""KEYS and ARGV of the gateway's scripts, and what their replies mean. Pure."""

import hashlib
from typing import Any

from roost.contract import names
from roost.contract.heads import AttemptRef, Head
from roost.store import codec
from roost.store.budgets import BudgetRules, ExtendRequest, statuses_from_texts
from roost.store.entry import Entry, Reserved
from roost.store.fork_records import NewFork
from roost.store.keys import PoolKeys
from roost.store.records import (
    FIRST_GENERATION,
    Began,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LiveAttempt,
    MigrateRequest,
    NewSession,
    Reservation,
)
from roost.store.refusals import WORDS, refused
from roost.store.repetition import calls_hash
from roost.store.rules import check_commit, check_migration, holds_thinking, opens_turn, thinking_from
from roost.store.scripts import Arg, Call
from roost.store.service import Done

OPEN_REQUEST_MS = 3_600_000
"""How long a `request_id` is remembered."""
MOST_SHARED_LOGS = 4
"""Of so many sessions' logs a fork shares a part; when there are more, it gets a copy of the last of them. It bounds
what a fork writes, and what each of its steps touches."""


def pool_keys(session_id: str) -> PoolKeys:
    """The keys of a session's pool. Raises ValueError when `session_id` is not a session's name."""
    pool = names.pool_of(session_id)
    if pool is None:
        raise ValueError(f"{session_id!r} is not a session's name; see `roost.contract.names.new_session_id`")
    return PoolKeys(pool)


def claim_keys(keys: PoolKeys) -> dict[str, str]:
    """Keys of the pool that scripts need which give tokens and places back."""
    claims = {"reservations": keys.reservations, "waiters": keys.waiters, "lines": keys.lines, "wake": keys.wake}
    return {**claims, **live_keys(keys), **service_keys(keys)}


def service_keys(keys: PoolKeys) -> dict[str, str]:
    """Keys of the pool that have what its tenants have had."""
    return {
        "service": keys.service,
        "service_waiting": keys.service_waiting,
        "service_resting": keys.service_resting,
    }


def live_keys(keys: PoolKeys) -> dict[str, str]:
    """Keys of the pool that have its working set."""
    return {
        "live": keys.live,
        "live_ends": keys.live_ends,
        "live_shares": keys.live_shares,
        "live_sums": keys.live_sums,
    }


def _entry_args(entry: Entry) -> dict[str, Arg]:
    return {"prefix": entry.prefix, "prefix_tokens": entry.prefix_tokens, "admission": int(entry.admission)}


def account_keys(keys: PoolKeys, rules: BudgetRules) -> dict[str, str]:
    """Keys of what a step's task, role and tenant have used."""
    return {
        "task_account": keys.task_account(rules.tenant, rules.task),
        "role_account": keys.role_account(rules.role),
        "tenant_account": keys.tenant_account(rules.tenant),
    }


def extend_call(request: ExtendRequest) -> Call:
    """All but the session's keys."""
    added = request.spending
    return Call(
        {"task_account": pool_keys(request.session_id).task_account(request.tenant, request.task)},
        {
            "tenant": request.tenant,
            "scope": request.scope,
            "request": request.request_id,
            "tokens": added.tokens,
            "gpu_us": added.gpu_us,
            "steps": added.steps,
            "wall_ms": added.wall_ms,
            "task_ttl_ms": request.task_ttl_ms,
        },
    )


def _head_args(head: Head | None, prefix: str = "") -> dict[str, Arg]:
    length, log_hash = codec.encode_head(head)
    return {f"{prefix}length": length, f"{prefix}hash": log_hash}


def expected_args(head: Head | None, generation: int) -> dict[str, Arg]:
    return {**_head_args(head, "expected_"), "expected_generation": generation}


def request_digest(request_id: str) -> str:
    """A request id as part of a key: of fixed form, so that no client can name another tenant's key."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()


def open_call(new: NewSession, erased: str, watermark: float) -> Call:
    """`erased` is a session that the same request opened and that is gone, or empty."""
    keys = pool_keys(new.session_id)
    return Call(
        {"session": keys.session(new.session_id), "tenant_sessions": keys.tenant_sessions(new.tenant)},
        {
            "session_id": new.session_id,
            "erased": erased,
            "watermark": watermark,
            "ttl_ms": new.ttl_ms,
            "request_ms": OPEN_REQUEST_MS,
        },
        more_keys=[keys.open_request(new.tenant, request_digest(new.request_id))] if new.request_id else [],
        more_args=[part for pair in codec.encode_new(new).items() for part in pair],
    )


def fork_call(new: NewFork, erased: str, watermark: float) -> Call:
    """All but the keys of the session to branch off. `erased` as for `open_call`."""
    keys, point = pool_keys(new.session_id), new.point
    return Call(
        {
            "session": keys.session(new.session_id),
            "log": keys.log(new.session_id, FIRST_GENERATION),
            "ids": keys.ids(new.session_id, FIRST_GENERATION),
            "tenant_sessions": keys.tenant_sessions(new.tenant),
        },
        {
            "session_id": new.session_id,
            "tenant": new.tenant,
            "other": new.other,
            "task": new.task,
            "labels": codec.encode_labels(new.labels),
            "erased": erased,
            "watermark": watermark,
            "request_ms": OPEN_REQUEST_MS,
            "most_shared": MOST_SHARED_LOGS,
            "generation": point.head.generation if point else 0,
            "steps": point.steps if point else 0,
            "length": point.head.length if point else 0,
            "hash": point.head.log_hash.hex() if point else "",
        },
        more_keys=[keys.open_request(new.tenant, request_digest(new.request_id))] if new.request_id else [],
    )


def reserve_call(asked: Reservation, aging_ms: int, adapt_ms: int) -> Call:
    keys = PoolKeys(asked.pool)
    return Call(
        {
            **claim_keys(keys),
            "workers": keys.workers,
            "descriptor": keys.session(asked.session_id),
            "lease": keys.lease(asked.worker_id),
        },
        {
            "nonce": asked.ref.nonce.hex(),
            "epoch": asked.ref.epoch,
            "worker": asked.worker_id,
            "revision": asked.revision,
            **_entry_args(asked.entry),
            "tokens": asked.tokens,
            "class": asked.priority,
            "aging_ms": aging_ms,
            "deadline_ms": asked.deadline_ms,
            "waited_ms": asked.waited_ms,
            "lease_ms": asked.lease_ms,
            "lost_tokens": asked.lost_tokens,
            "adapt_ms": adapt_ms,
        },
    )


def release_call(reservation: Reservation) -> Call:
    keys = PoolKeys(reservation.pool)
    return Call(
        {**claim_keys(keys), "descriptor": keys.session(reservation.session_id)},
        {"nonce": reservation.ref.nonce.hex(), "worker": reservation.worker_id},
    )


def begin_args(request: BeginRequest, aging_ms: int, residency_delay_ms: int, adapt_ms: int) -> dict[str, Arg]:
    return {
        "session_id": request.session_id,
        "tenant": request.tenant,
        "step_id": request.step_id,
        "digest": request.digest.hex(),
        "nonce": request.nonce.hex(),
        "seed": request.seed,
        **expected_args(request.expected_head, request.expected_generation),
        "migrates_to": request.migrates_to,
        "drops_thinking": int(request.drops_thinking),
        "rules": request.rules.encode(),
        "opens_turn": int(request.opens_turn),
        "lease_ms": request.lease_ms,
        "new_tokens": request.new_tokens,
        "max_session_tokens": request.max_session_tokens,
        "budget_tokens": request.budget_tokens,
        "max_steps": request.max_steps,
        "class": request.priority,
        "aging_ms": aging_ms,
        "deadline_ms": request.deadline_ms,
        "weight": request.demand.weight,
        "prompt_tokens": request.demand.prompt_tokens,
        "output_tokens": request.demand.output_tokens,
        "residency_delay_ms": residency_delay_ms,
        "adapt_ms": adapt_ms,
        "first_worker": request.first_worker,
        **_entry_args(request.entry),
    }


def began(descriptor: Descriptor, fenced: LiveAttempt | None, reply: list[Any]) -> Began:
    """What Begin has replied, with the descriptor and the fenced attempt in it."""
    assert descriptor.attempt is not None, "the script has just taken it"
    return Began(
        ref=descriptor.attempt.ref,
        seed=descriptor.attempt.seed,
        descriptor=descriptor,
        reserved=reply[2].decode(),
        cached_tokens=int(reply[3]),
        warm_tokens=int(reply[4]),
        gated=reply[5] == 1,
        fenced=fenced,
        budgets=statuses_from_texts(reply[7]),
        counter=int(reply[8]),
    )


def reserved(reply: list[Any]) -> Reserved:
    """What Reserve has replied."""
    counter = int(reply[1])
    if reply[0] == b"reserved":
        return Reserved(True, counter=counter)
    held, live_tokens, live_limit, first_end_ms = reply[2:]
    first_end = None if first_end_ms < 0 else first_end_ms
    return Reserved(False, held == 1, live_tokens, live_limit, first_end, counter)


def migrate_args(request: MigrateRequest) -> dict[str, Arg]:
    """Raises ValueError when entries, ids and head of the request contradict one another."""
    check_migration(request)
    thinking = thinking_from(request.entries, request.without_thinking)
    return {
        "nonce": request.ref.nonce.hex(),
        "epoch": request.ref.epoch,
        **_head_args(request.previous, "previous_"),
        **_head_args(request.entries[-1].head),
        "revision": request.model_revision,
        "ids": request.packed_ids,
        "thinking": "" if thinking is None else thinking,
        "fold_id": request.entries[0].step_id if request.folded else "",
        "folded": request.folded,
        "renews_budget": int(request.renews_budget),
        "ttl_ms": request.ttl_ms,
        "lease_ms": request.lease_ms,
    }


def migrated_steps(request: MigrateRequest) -> list[Arg]:
    """The entries as a log holds them: they keep their time."""
    return [f"{entry.commit_ms}:".encode() + codec.encode_entry(entry) for entry in request.entries]


def commit_args(request: CommitRequest, adapt_ms: int) -> dict[str, Arg]:
    """Raises ValueError when ids, counts and head of the request contradict one another."""
    check_commit(request)
    entry = request.entry
    return {
        "nonce": request.ref.nonce.hex(),
        "epoch": request.ref.epoch,
        "step_id": entry.step_id,
        **_head_args(request.previous, "previous_"),
        **_head_args(entry.head),
        "entry": codec.encode_entry(entry),
        "ids": request.packed_ids,
        "owner": request.owner,
        "prompt": entry.prompt_tokens,
        "output": entry.output_tokens,
        "cached": entry.cached_tokens,
        "reconstructed": entry.reconstructed_tokens,
        "revision": entry.model_revision,
        "thinking": int(holds_thinking(entry)),
        "rules": request.rules.encode(),
        "uncached_tokens": request.spending.tokens,
        "gpu_us": request.spending.gpu_us,
        "calls": calls_hash(entry.output.get("tool_calls", ())),
        "opens_turn": int(opens_turn(entry)),
        "ttl_ms": request.ttl_ms,
        "adapt_ms": adapt_ms,
    }


def abort_args(ref: AttemptRef, done: Done) -> dict[str, Arg]:
    return {
        "epoch": ref.epoch,
        "nonce": ref.nonce.hex(),
        "prompt_tokens": done.prompt_tokens,
        "output_tokens": done.output_tokens,
    }


def accepted(reply: list[Any]) -> list[Any]:
    """The reply, when the script did what was asked. Raises Refused when it refused."""
    if reply[0] != b"refused":
        return reply
    _, why, retry_ms, length, log_hash, detail = reply
    head = None if length == b"" else Head(int(length), bytes.fromhex(log_hash.decode()))
    raise refused(WORDS[why.decode()], retry_ms=retry_ms, head=head, detail=detail.decode())


def described(session_id: str, reply: list[Any]) -> Descriptor:
    """The descriptor in a reply of the form {word, now, descriptor, …}."""
    return codec.decode_descriptor(session_id, codec.pairs(reply[2]), reply[1])
