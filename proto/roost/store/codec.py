"""Between records and what Redis keeps. Strict: bad data is an error that names the record, never a guess."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from datetime import date
from typing import Any

import msgpack

from roost.contract import names
from roost.contract.heads import AttemptRef, Head
from roost.contract.sessions import ForkPoint
from roost.store.budgets import Account, Spending
from roost.store.generations import Fold, FormerLog
from roost.store.holds import HoldRecord
from roost.store.records import (
    FIRST_GENERATION,
    Descriptor,
    LiveAttempt,
    LogEntry,
    NewSession,
    State,
)
from roost.store.rules import day_of

_ENTRY_VERSION = b"\x01"
_NOT_PACKED = ("index", "commit_ms", "budgets", "repetition")
_PACKED = tuple(field.name for field in fields_of(LogEntry) if field.name not in _NOT_PACKED)


class CorruptRecordError(Exception):
    """Redis holds something that Roost did not write."""


def pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    """A hash from a script's reply, which has names and values in turn."""
    return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}


def encode_new(new: NewSession) -> dict[str, str | bytes | int]:
    """The fields of a new session's descriptor."""
    return {
        "tenant": new.tenant,
        "role": new.role,
        "task": new.task,
        "parent": new.parent,
        "labels": encode_labels(new.labels),
        "system": new.system,
        "tools": json.dumps(new.tools, separators=(",", ":")),
        "model": new.model,
        "revision": new.model_revision,
        "date": new.date,
        "generation": FIRST_GENERATION,
        "length": 0,
        "hash": "",
        "steps": 0,
        "state": State.ACTIVE.value,
        "epoch": 0,
        "owner": "",
        "prompt": 0,
        "output": 0,
        "cached": 0,
        "reconstructed": 0,
        "thinking": "",
    }


def encode_labels(labels: Mapping[str, str]) -> str:
    return json.dumps(labels, separators=(",", ":"))


def decode_descriptor(session_id: str, fields: Mapping[str, bytes], now_ms: int) -> Descriptor:
    """The descriptor in the hash of `session_id`, with leases as they stand at `now_ms`.

    Raises CorruptRecordError when a field is missing or is not what it should be.
    """
    try:
        return _descriptor(session_id, {name: value.decode() for name, value in fields.items()}, now_ms)
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptRecordError(f"descriptor of session {session_id}: {error!r}") from error


def _descriptor(session_id: str, text: Mapping[str, str], now_ms: int) -> Descriptor:
    kv_since, _, kv_of = text.get("kv", "").partition(":")
    return Descriptor(
        session_id=session_id,
        pool=names.pool_of(session_id) or _bad(f"{session_id!r} is not a session's name"),
        tenant=text["tenant"],
        role=text["role"],
        task=text["task"],
        parent=text["parent"],
        labels=dict(json.loads(text["labels"])),
        system=text["system"],
        tools=tuple(json.loads(text["tools"])),
        model=text["model"],
        model_revision=text["revision"],
        date=_date(text),
        generation=int(text["generation"]),
        head=Head(int(text["length"]), bytes.fromhex(text["hash"])),
        steps=int(text["steps"]),
        state=State(text["state"]),
        epoch=int(text["epoch"]),
        attempt=_attempt(text, now_ms) if "attempt:nonce" in text else None,
        hold=_hold(text) if "hold:tool" in text else None,
        owner=text["owner"],
        prompt_tokens=int(text["prompt"]),
        output_tokens=int(text["output"]),
        cached_tokens=int(text["cached"]),
        reconstructed_tokens=int(text["reconstructed"]),
        created_ms=int(text["created"]),
        updated_ms=int(text["updated"]),
        expires_ms=int(text["expires"]),
        former=_former(text["former"]) if "former" in text else None,
        folds=_folds(text.get("folds", "")),
        thinking_from=_thinking_from(text),
        forked_from=_fork_point(text["forked"]) if "forked" in text else None,
        inherited_steps=int(text.get("inherited", 0)),
        kv_of=kv_of,
        kv_since_ms=int(kv_since or 0),
        account=_account(text).read(now_ms),
    )


def _account(text: Mapping[str, str]) -> Account:
    """What a session has used; nothing for one that was last stepped by an older gateway."""

    def number(field: str) -> int:
        return int(text.get(field, 0))

    return Account(
        tokens=number("spent:tokens"),
        gpu_us=number("spent:gpu_us"),
        steps=number("spent:steps"),
        since_ms=number("spent:since"),
        grace_steps=number("spent:grace"),
        more=Spending(*(number(f"more:{field}") for field in ("tokens", "gpu_us", "steps", "wall_ms"))),
        last_request=text.get("more:request", ""),
        calls=text.get("spent:calls", ""),
        repeats=text.get("spent:repeats", ""),
    )


def _date(text: Mapping[str, str]) -> str:
    """Sessions that were written before there were dates, and their forks, have the day of the first one's creation."""
    opened_ms = int(text.get("opened") or text["created"])
    return date.fromisoformat(text.get("date") or day_of(opened_ms)).isoformat()


def _thinking_from(text: Mapping[str, str]) -> int | None:
    """Where it is not noted, thinking may begin at the first step."""
    index = text.get("thinking", "0")
    return int(index) if index and int(index) < int(text["steps"]) else None


def _bad(message: str) -> str:
    raise ValueError(message)


def _attempt(text: Mapping[str, str], now_ms: int) -> LiveAttempt:
    return LiveAttempt(
        ref=AttemptRef(int(text["epoch"]), bytes.fromhex(text["attempt:nonce"])),
        step_id=text["attempt:step"],
        seed=int(text["attempt:seed"]),
        worker_id=text["attempt:worker"],
        lease_ms_left=int(text["attempt:expiry"]) - now_ms,
    )


def _folds(text: str) -> tuple[Fold, ...]:
    pairs = (fold.split(":") for fold in text.split("|") if fold)
    return tuple(Fold(int(generation), int(steps)) for generation, steps in pairs)


def _former(text: str) -> FormerLog:
    steps, length, log_hash, revision = text.split(":", 3)
    return FormerLog(Head(int(length), bytes.fromhex(log_hash)), int(steps), revision)


def _fork_point(text: str) -> ForkPoint:
    generation, length, log_hash, session_id = text.split(":")
    return ForkPoint(session_id, Head(int(length), bytes.fromhex(log_hash), int(generation)))


def _hold(text: Mapping[str, str]) -> HoldRecord:
    return HoldRecord(text["hold:tool"], float(text["hold:expect"]), int(text["hold:begin"]))


def decode_fenced(fields: Mapping[str, bytes], now_ms: int) -> LiveAttempt | None:
    """Return the attempt of the same step that the live attempt replaced, or None."""
    text = fields.get("attempt:fenced", b"").decode()
    if not text:
        return None
    epoch, nonce, expiry, worker_id = text.split(":", 3)
    return LiveAttempt(
        ref=AttemptRef(int(epoch), bytes.fromhex(nonce)),
        step_id=fields["attempt:step"].decode(),
        seed=int(fields["attempt:seed"]),
        worker_id=worker_id,
        lease_ms_left=int(expiry) - now_ms,
    )


def encode_entry(entry: LogEntry) -> bytes:
    """An entry for the log; its index is its place there, its key names the generation, and the script puts the time
    before it."""
    document = {name: getattr(entry, name) for name in _PACKED}
    document["head"] = {"length": entry.head.length, "log_hash": entry.head.log_hash}
    return _ENTRY_VERSION + zlib.compress(msgpack.packb(document), level=1)


def decode_entry(stored: bytes, index: int) -> LogEntry:
    """An entry from the log: `time:` and the packed entry. Raises CorruptRecordError."""
    try:
        commit_ms, _, packed = stored.partition(b":")
        if packed[:1] != _ENTRY_VERSION:
            raise ValueError(f"version {packed[:1]!r} is unknown to this gateway")
        document = msgpack.unpackb(zlib.decompress(packed[1:]))
        document["head"] = Head(**document["head"])
        document["messages"] = tuple(document["messages"])
        return LogEntry(**document, index=index, commit_ms=int(commit_ms))
    except (KeyError, ValueError, TypeError, zlib.error, msgpack.UnpackException) as error:
        raise CorruptRecordError(f"log entry {index}: {error!r}") from error


def encode_head(head: Head | None) -> tuple[str, str]:
    """Length and hash as scripts take them; both empty when no head is expected."""
    return ("", "") if head is None else (str(head.length), head.log_hash.hex())


def decode_document(text: bytes | None, what: str) -> dict[str, Any] | None:
    """A JSON object. Raises CorruptRecordError."""
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise CorruptRecordError(f"{what}: {error}") from error
    if not isinstance(document, dict):
        raise CorruptRecordError(f"{what}: a JSON object is wanted, not {type(document).__name__}")
    return document
