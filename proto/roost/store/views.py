"""Stored records as their owner reads them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from roost.contract.budgets import BudgetScope, BudgetStatus
from roost.contract.events import Committed, Migrated, Usage
from roost.contract.heads import Head
from roost.contract.pool_document import PoolDocument
from roost.contract.sessions import Hold, LoggedStep, SessionInfo, SessionState, SessionTool, Tier
from roost.store.budgets import budgets_of
from roost.store.records import Descriptor, LogEntry
from roost.store.residency import Residency
from roost.store.values import (
    finish_reason_from_record,
    format_from_record,
    message_from_record,
    sampling_from_record,
    why_from_record,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def session_info(descriptor: Descriptor, pool: PoolDocument | None, residency: Residency | None = None) -> SessionInfo:
    """A session's record. `residency` is as published of `descriptor.published_as`; None when it is COLD."""
    worker, on_device, warm_tokens = residency or Residency("", 0)
    # A fork's are published with those of the other's log.
    cached_tokens = min(on_device + warm_tokens, descriptor.head.length)
    hold = descriptor.hold
    budget = pool.role(descriptor.role).budget_tokens if pool else 0
    used = descriptor.prompt_tokens + descriptor.output_tokens
    return SessionInfo(
        id=descriptor.session_id,
        pool=descriptor.pool,
        role=descriptor.role,
        task=descriptor.task,
        parent=descriptor.parent,
        model=descriptor.model,
        model_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=replace(descriptor.head, generation=descriptor.generation),
        state=SessionState(descriptor.state.value),
        tier=Tier.COLD if not worker else Tier.WARM if warm_tokens and not on_device else Tier.HOT,
        worker=worker,
        cached_tokens=cached_tokens,
        hold=None if hold is None else Hold(hold.tool, hold.expect_seconds, _time(hold.begin_ms)),
        steps=descriptor.steps,
        usage=_usage(descriptor, descriptor.account.gpu_us / 1_000_000),
        budget_remaining_tokens=max(0, budget - used) if budget else None,
        running_step_id=descriptor.attempt.step_id if descriptor.attempt else "",
        create_time=_time(descriptor.created_ms),
        update_time=_time(descriptor.updated_ms),
        expire_time=_time(descriptor.expires_ms) if descriptor.expires_ms else None,
        labels=descriptor.labels,
        tools=tuple(map(_session_tool, descriptor.tools)),
        forked_from=descriptor.forked_from,
        budgets=_session_budgets(descriptor, pool) if pool else (),
    )


def _session_budgets(descriptor: Descriptor, pool: PoolDocument) -> tuple[BudgetStatus, ...]:
    limits = pool.role(descriptor.role).budgets.session
    return tuple(budget.status(descriptor.account) for budget in budgets_of(BudgetScope.SESSION, limits))


def _session_tool(record: Mapping[str, str]) -> SessionTool:
    keyword = record.get("keyword")
    return SessionTool(record["name"], None if keyword is None else not keyword, keyword or "")


def logged_step(entry: LogEntry, generation: int, token_ids: Sequence[int] = ()) -> LoggedStep:
    """A log's entry. `token_ids` are those of its prompt, then of its output; empty when they are not asked for."""
    return LoggedStep(
        step_id=entry.step_id,
        index=entry.index,
        messages=tuple(map(message_from_record, entry.messages)),
        output=message_from_record(entry.output),
        finish_reason=finish_reason_from_record(entry.finish_reason),
        usage=_usage(entry, entry.gpu_seconds),
        head=replace(entry.head, generation=generation),
        sampling=replace(sampling_from_record(entry.sampling), seed=entry.seed),
        format=format_from_record(entry.format),
        prompt_token_ids=tuple(token_ids[: entry.prompt_tokens]),
        output_token_ids=tuple(token_ids[entry.prompt_tokens :]),
        commit_time=_time(entry.commit_ms),
        reasoning=entry.output.get("reasoning", ""),
        reasoning_tokens=_reasoning_tokens(entry),
        why=why_from_record(entry.output.get("why")),
    )


def committed(entry: LogEntry, generation: int, *, replayed: bool) -> Committed:
    """The event of a step that has this entry. Its times and failovers are 0."""
    return Committed(
        step_id=entry.step_id,
        output=message_from_record(entry.output),
        finish_reason=finish_reason_from_record(entry.finish_reason),
        usage=_usage(entry, entry.gpu_seconds),
        head=replace(entry.head, generation=generation),
        index=entry.index,
        queue_ms=0,
        first_token_ms=0,
        seed=entry.seed,
        replayed=replayed,
        output_tokens=entry.output_tokens,
        failovers=0,
        warnings=tuple(entry.output.get("warnings", ())),
        reasoning=entry.output.get("reasoning", ""),
        reasoning_tokens=_reasoning_tokens(entry),
        stop_string=entry.output.get("stop_string", ""),
        budgets=entry.budgets,
        repetition=entry.repetition,
        why=why_from_record(entry.output.get("why")),
    )


def last_migration(descriptor: Descriptor) -> Migrated:
    """The event of the migration that made the session's current log."""
    assert descriptor.former is not None, "the session has migrated"
    return Migrated(
        from_revision=descriptor.former.model_revision,
        to_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=replace(descriptor.head, generation=descriptor.generation),
    )


def unknown_migration(descriptor: Descriptor, known: Head | None) -> Migrated | None:
    """The migration of which a client that knows the head `known` has to be informed, or None."""
    former = descriptor.former
    if former is None or known is None or known.generation >= descriptor.generation:
        return None
    if known.generation == 0 and known != former.head:
        return None
    return last_migration(descriptor)


def _reasoning_tokens(entry: LogEntry) -> int:
    """At most those of the output: a log that was rendered again may have it without thinking, or in fewer tokens."""
    return min(int(entry.output.get("reasoning_tokens", 0)), entry.output_tokens)


def _time(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _usage(counted: LogEntry | Descriptor, gpu_seconds: float) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.cached_tokens,
        reconstructed_tokens=counted.reconstructed_tokens,
        gpu_seconds=gpu_seconds,
    )
