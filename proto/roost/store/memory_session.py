"""One session of the store in memory: its record, its logs, and the attempt that may commit. Pure."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from roost.contract import names
from roost.contract.heads import AttemptRef, Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkPoint
from roost.store.fork_records import NewFork
from roost.store.generations import Fold, FormerLog
from roost.store.records import (
    FIRST_GENERATION,
    AlreadyCommitted,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LiveAttempt,
    LogEntry,
    MigrateRequest,
    NewSession,
    State,
)
from roost.store.refusals import refused
from roost.store.rules import ID_BYTES, day_of, holds_thinking, thinking_from, wrong_head
from roost.store.service import Demand
from roost.store.working_set import Footprint, footprint


@dataclass(slots=True)
class Work:
    """A live attempt."""

    ref: AttemptRef
    step_id: str
    digest: bytes
    seed: int
    worker: str
    tokens: int
    expiry_ms: int
    fenced: "Work | None"
    """Attempt of the same step that this one replaced."""
    migrated: bool = False
    is_grace: bool = False
    """Whether the step was begun after a budget was used up."""
    demand: Demand = Demand()  # noqa: RUF009  # frozen
    charged: int | None = None
    """What its tenant was charged for it; None before it has reserved."""

    def describe(self, now: int) -> LiveAttempt:
        return LiveAttempt(self.ref, self.step_id, self.seed, self.worker, self.expiry_ms - now)


@dataclass(slots=True)
class Log:
    entries: list[LogEntry] = field(default_factory=list)
    ids: bytes = b""


@dataclass(slots=True)
class CommittedStep:
    """Where the entry of a committed step is, and which attempt committed it."""

    generation: int
    index: int
    digest: bytes
    nonce: bytes


@dataclass(slots=True)
class MemorySession:
    record: Descriptor
    """Without the live attempt."""
    ttl_ms: int
    family: str
    """The first of all sessions that were branched off one another, without its pool."""
    logs: list[Log] = field(default_factory=lambda: [Log()])
    """One for each generation."""
    steps: dict[str, CommittedStep] = field(default_factory=dict)
    quarantine: dict[bytes, int] = field(default_factory=dict)
    """Digests of steps that killed workers -> until when they are refused, in ms. Sessions that are branched off one
    another have one such dictionary."""
    attempt: Work | None = None

    def describe(self, now: int) -> Descriptor:
        attempt = self.attempt.describe(now) if self.attempt else None
        return replace(self.record, attempt=attempt, account=self.record.account.read(now))

    @property
    def short_name(self) -> str:
        return short_name(self.record.session_id)

    def footprint(self, tokens: int, prefix: str, prefix_tokens: int) -> Footprint:
        """What it needs in KV when it needs `tokens` altogether. All of a log's first generation may be shared with
        those that are branched off it; a fork shares up to where it was branched off."""
        if self.record.generation > FIRST_GENERATION:
            return footprint(tokens, prefix, prefix_tokens, "", 0)
        forked = self.record.forked_from
        shared = tokens if forked is None else forked.head.length
        return footprint(tokens, prefix, prefix_tokens, self.family, shared)

    @property
    def is_rewritten(self) -> bool:
        """Whether no step has been committed since its log was rewritten in a new generation."""
        former = self.record.former
        return former is not None and former.steps == self.record.steps

    def log(self, generation: int) -> Log:
        return self.logs[generation - FIRST_GENERATION]

    def is_gone(self, now: int) -> bool:
        return 0 < self.record.expires_ms <= now

    def change(self, **fields: Any) -> None:
        self.record = replace(self.record, **fields)

    def touch(self, now: int, more_ms: int = 0) -> None:
        """Sets when the session is erased: `more_ms` after its idle time."""
        self.change(expires_ms=now + self.ttl_ms + more_ms if self.ttl_ms else 0)

    def refusal(self, reason: Reason, retry_ms: int = 0, detail: str = "") -> Refused:
        return refused(reason, retry_ms=retry_ms, head=self.record.head, detail=detail)

    def check_live(self, ref: AttemptRef, step_id: str | None = None) -> Work:
        """The live attempt. Refuses: ATTEMPT_FENCED when it is another than `ref`, or of another step."""
        attempt = self.attempt
        if attempt is None or attempt.ref != ref or step_id not in (None, attempt.step_id):
            raise self.refusal(Reason.ATTEMPT_FENCED)
        return attempt

    def check_open(self) -> None:
        if self.record.state is State.CLOSED:
            raise self.refusal(Reason.SESSION_CLOSED)

    def check_head(self, expected: Head | None, generation: int) -> None:
        reason = wrong_head(self.record, expected, generation)
        if reason is not None:
            raise self.refusal(reason)

    def check_idle(self, now: int) -> None:
        if self.attempt and self.attempt.expiry_ms > now:
            raise self.refusal(Reason.ANOTHER_STEP_RUNNING, self.attempt.expiry_ms - now)

    def check_quarantine(self, digest: bytes, now: int) -> None:
        left = self.quarantine.get(digest, now) - now
        if left > 0:
            raise self.refusal(Reason.STEP_KILLED_WORKERS, left)

    def check_limits(self, request: BeginRequest, *, migrates: bool) -> None:
        record, need = self.record, request.new_tokens
        used, budget = record.prompt_tokens + record.output_tokens, request.budget_tokens
        if budget and used + need > budget:
            detail = f"used {used} of {budget} tokens; this step may need {need}"
            raise self.refusal(Reason.BUDGET_EXHAUSTED, detail=detail)
        taken = record.steps + sum(fold.steps - 1 for fold in record.folds) - record.inherited_steps
        if request.max_steps and taken >= request.max_steps:
            raise self.refusal(Reason.STEP_LIMIT_REACHED, detail=f"the session has its {request.max_steps} steps")
        length, most = record.head.length, request.max_session_tokens
        drops = request.drops_thinking and record.thinking_from is not None
        if most and length + need > most and not migrates and not drops:
            detail = f"the log has {length} tokens and this step may need {need}; a session holds {most}"
            raise self.refusal(Reason.STEP_TOO_LONG, detail=detail)

    def migrates_to(self, revision: str) -> bool:
        """Whether a pool whose sessions migrate to `revision` gives this session a new log; '': they do not migrate."""
        return bool(revision and self.record.steps) and self.record.model_revision not in ("", revision)

    def already(self, step: CommittedStep, now: int) -> AlreadyCommitted:
        log = self.log(step.generation)
        entry = log.entries[step.index]
        end = entry.head.length * ID_BYTES
        split = end - entry.output_tokens * ID_BYTES
        prompt = log.ids[split - entry.prompt_tokens * ID_BYTES : split]
        return AlreadyCommitted(entry, self.describe(now), prompt, log.ids[split:end], step.generation)

    def append(self, request: CommitRequest, work: Work, now: int) -> LogEntry:
        """Commits a step."""
        record = self.record
        entry = replace(request.entry, index=record.steps, commit_ms=now)
        self.logs[-1].entries.append(entry)
        self.logs[-1].ids += request.packed_ids
        self.steps[entry.step_id] = CommittedStep(record.generation, entry.index, work.digest, work.ref.nonce)
        self.ttl_ms = request.ttl_ms
        if record.thinking_from is None and holds_thinking(entry):
            self.change(thinking_from=entry.index)
        self.change(
            head=entry.head,
            steps=record.steps + 1,
            owner=request.owner,
            kv_of="",
            kv_since_ms=0,
            model_revision=entry.model_revision,
            updated_ms=now,
            prompt_tokens=record.prompt_tokens + entry.prompt_tokens,
            output_tokens=record.output_tokens + entry.output_tokens,
            cached_tokens=record.cached_tokens + entry.cached_tokens,
            reconstructed_tokens=record.reconstructed_tokens + entry.reconstructed_tokens,
        )
        return entry

    def has_folded(self, request: MigrateRequest) -> bool:
        """Whether a request to fold the log has been done before."""
        step = self.steps.get(request.entries[0].step_id) if request.folded else None
        return step is not None and step.nonce == request.ref.nonce

    def begin_generation(self, request: MigrateRequest, work: Work, now: int) -> None:
        """Begins a log in the tokens of another revision, without thinking, or folded. Raises ValueError when it lacks
        steps of the log."""
        record, folds = self.record, self.record.folds
        gone = max(0, request.folded - 1)
        if request.folded > record.steps or len(request.entries) != record.steps - gone:
            raise ValueError("the new log does not have the steps of the old one")
        if request.folded:
            generation, fold_id = record.generation + 1, request.entries[0].step_id
            folds = (*folds, Fold(generation, request.folded))
            self.steps[fold_id] = CommittedStep(generation, 0, work.digest, work.ref.nonce)
        entries = [replace(entry, index=index) for index, entry in enumerate(request.entries)]
        self.logs.append(Log(entries, request.packed_ids))
        self.ttl_ms = request.ttl_ms
        self.change(
            generation=record.generation + 1,
            head=entries[-1].head,
            model_revision=request.model_revision,
            owner=record.owner if record.model_revision == request.model_revision else "",
            kv_of="",
            kv_since_ms=0,
            updated_ms=now,
            steps=len(entries),
            former=FormerLog(record.head, len(entries), record.model_revision),
            folds=folds,
            account=record.account.read(now).renewed() if request.renews_budget else record.account,
            thinking_from=thinking_from(entries, request.without_thinking),
        )

    def roll_back(self, steps: int) -> None:
        """Forgets the last steps of the log."""
        log, kept = self.logs[-1], max(0, self.record.steps - steps)
        for entry in log.entries[kept:]:
            self.steps.pop(entry.step_id, None)
        head = log.entries[kept - 1].head if kept else Head()
        log.entries, log.ids = log.entries[:kept], log.ids[: head.length * ID_BYTES]
        self.change(head=head, steps=kept)


def short_name(session_id: str) -> str:
    """A session's name without its pool."""
    return session_id.rpartition("/")[2]


def new_session(new: NewSession, now: int) -> MemorySession:
    """A session as Open writes it. Raises ValueError when its name is not a session's name."""
    pool = names.pool_of(new.session_id)
    if pool is None:
        raise ValueError(f"{new.session_id!r} is not a session's name; see `roost.contract.names.new_session_id`")
    same = {part.name: getattr(new, part.name) for part in fields(new) if part.name not in ("request_id", "ttl_ms")}
    same["date"] = new.date or day_of(now)
    expires_ms = now + new.ttl_ms if new.ttl_ms else 0
    record = Descriptor(pool=pool, created_ms=now, updated_ms=now, expires_ms=expires_ms, **same)
    return MemorySession(record, new.ttl_ms, short_name(new.session_id))


def branch_off(other: MemorySession, new: NewFork, now: int) -> MemorySession:
    """A session as Fork writes it. Refuses: HEAD_MISMATCH, SESSION_ROLLED_BACK when the log has no such point."""
    before, point = other.record, new.point
    if point is not None and point.head.generation != before.generation:
        raise other.refusal(Reason.HEAD_MISMATCH)
    head, steps = (replace(point.head, generation=0), point.steps) if point else (before.head, before.steps)
    if steps > before.steps or head.length > before.head.length or (steps == before.steps and head != before.head):
        raise other.refusal(Reason.SESSION_ROLLED_BACK)
    log, has_kv = other.log(before.generation), bool(steps and before.owner)
    record = Descriptor(
        **{name: getattr(before, name) for name in _GIVEN},
        session_id=new.session_id,
        task=new.task or before.task,
        labels=new.labels,
        head=head,
        steps=steps,
        inherited_steps=steps,
        forked_from=ForkPoint(new.other, replace(head, generation=before.generation)),
        owner=before.owner if steps else "",
        kv_of=before.published_as if has_kv else "",
        kv_since_ms=(before.kv_since_ms if before.kv_of else before.updated_ms) if has_kv else 0,
        thinking_from=_shared_thinking(before, steps),
        created_ms=now,
        updated_ms=now,
        expires_ms=now + other.ttl_ms if other.ttl_ms else 0,
    )
    shared = Log(log.entries[:steps], log.ids[: head.length * ID_BYTES])
    return MemorySession(record, other.ttl_ms, other.family, [shared], quarantine=other.quarantine)


def _shared_thinking(record: Descriptor, steps: int) -> int | None:
    """`thinking_from` of a log that shares the first `steps` of a session's."""
    return record.thinking_from if record.thinking_from is not None and record.thinking_from < steps else None


_GIVEN = ("tenant", "pool", "role", "parent", "system", "tools", "date", "model", "model_revision")
"""What a fork has from the session that it is branched off."""
