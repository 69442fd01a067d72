"""What the store keeps and returns, as frozen values. Gateways are the only writers of session records."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from roost.contract.budgets import BudgetStatus
from roost.contract.heads import AttemptRef, Head
from roost.contract.repetition import Repetition
from roost.contract.sessions import ForkPoint
from roost.store.budgets import NO_BUDGETS, Account, BudgetRules, Spending, spending
from roost.store.entry import UNCOUNTED, Entry
from roost.store.generations import Fold, FormerLog
from roost.store.holds import HoldRecord
from roost.store.service import Demand

FIRST_GENERATION = 1


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """The attempt that may commit now."""

    ref: AttemptRef
    step_id: str
    seed: int
    worker_id: str
    """Worker that the attempt was sent to; empty before that."""
    lease_ms_left: int
    """Negative once the lease ran out; the attempt may still commit until it is fenced."""


class State(StrEnum):
    ACTIVE = "active"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A session's record. Times are milliseconds of Redis TIME."""

    session_id: str
    tenant: str
    pool: str
    role: str
    task: str
    parent: str
    labels: dict[str, str]
    system: str
    tools: tuple[dict[str, Any], ...]
    """Tools as `{name, description, parameters}` with `parameters` a JSON text, and once a worker has checked them
    `keyword`: where the schema is not enforced (`SessionTool.keyword`). All are texts, as older gateways expect."""
    model: str
    model_revision: str
    """Revision of the log. While the log is empty it may be empty and means nothing."""
    date: str = ""
    """Day of opening (UTC), such as `2026-11-30`: the date that the session's prompts have, however long it lives."""
    generation: int = FIRST_GENERATION
    head: Head = Head()  # noqa: RUF009  # frozen
    steps: int = 0
    state: State = State.ACTIVE
    epoch: int = 0
    attempt: LiveAttempt | None = None
    hold: HoldRecord | None = None
    owner: str = ""
    """Worker that committed last. What it has cached is what it publishes (`Began.cached_tokens`)."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reconstructed_tokens: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    expires_ms: int = 0
    """0: never."""
    former: FormerLog | None = None
    """None in the first generation."""
    folds: tuple[Fold, ...] = ()
    """Oldest first."""
    thinking_from: int | None = None
    """Index of the first step of the current log whose thinking is among its tokens; None when no step's is. 0 for a
    log that was begun before this was noted."""
    forked_from: ForkPoint | None = None
    """None when it was opened."""
    inherited_steps: int = 0
    """Steps of the log that it has from the session that it was branched off."""
    kv_of: str = ""
    """Session under whose name workers publish what a fork has cached, until it has a step of its own; empty: its own
    name."""
    kv_since_ms: int = 0
    """When `kv_of` had last been changed when the fork was written."""
    account: Account = Account()  # noqa: RUF009  # frozen
    """What the session's own steps have used."""

    @property
    def bound_revision(self) -> str:
        """Revision of the model whose tokens the log holds; empty while it holds none."""
        return self.model_revision if self.steps else ""

    @property
    def published_as(self) -> str:
        """Session under whose name workers publish what they have of this one's log."""
        return self.kv_of or self.session_id


@dataclass(frozen=True, slots=True)
class NewSession:
    """What OpenSession writes."""

    session_id: str
    tenant: str
    role: str
    model: str
    model_revision: str
    system: str
    tools: tuple[dict[str, Any], ...] = ()
    task: str = ""
    parent: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    ttl_ms: int = 0
    """Idle time after which the session is erased; 0 means never."""
    date: str = ""
    """The session's date; empty: the day on which the store writes it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One committed step, without its token ids (they are kept apart and read by range)."""

    step_id: str
    index: int
    messages: tuple[dict[str, Any], ...]
    output: dict[str, Any]
    """The generated message: `{role, content, tool_calls}`; `text`, everything the model wrote; and what only newer
    gateways know, such as `why`."""
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    reconstructed_tokens: int
    head: Head
    """Log after the step."""
    seed: int
    sampling: dict[str, Any]
    format: dict[str, Any] | None
    model_revision: str
    worker_id: str
    commit_ms: int = 0
    budgets: tuple[BudgetStatus, ...] = ()
    """Those to warn of when the step was committed, as Commit answers; they are not stored."""
    repetition: Repetition | None = None
    """What the step's calls repeat, as Commit answers; it is not stored."""
    counter: int = field(default=0, compare=False)
    """The tenant's counter after the step (`roost.store.service`), as Commit answers; it is not stored."""

    @property
    def gpu_seconds(self) -> float:
        """0 for a step of a worker that did not measure it."""
        return float(self.output.get("gpu_seconds", 0.0))

    @property
    def start(self) -> int:
        """Tokens of the log before the step."""
        return self.head.length - self.output_tokens - self.prompt_tokens


class StoreAwayError(Exception):
    """Redis does not answer. The caller retries or reports UNAVAILABLE; what was sent may or may not have been done."""


@dataclass(frozen=True, slots=True)
class BeginRequest:
    """Arguments of Begin."""

    session_id: str
    tenant: str
    step_id: str
    digest: bytes
    """16-byte hash of the step's content, so that a reused step_id is noticed."""
    expected_head: Head | None
    nonce: bytes
    """16 random bytes, fresh for every attempt."""
    seed: int
    """For a step's first attempt; a retry keeps that seed."""
    lease_ms: int
    new_tokens: int
    """Estimate of prompt tokens plus the most output tokens; the ledger's need is head length + this."""
    max_session_tokens: int
    """STEP_TOO_LONG when head length + `new_tokens` is more; 0 means no limit."""
    budget_tokens: int
    """Of the session's life: BUDGET_EXHAUSTED when used tokens + `new_tokens` is more; 0 means no limit."""
    max_steps: int
    """0 means no limit."""
    priority: int
    """Class of the wait, lower first; the store adds nothing to it."""
    deadline_ms: int
    """Milliseconds from now; 0 means no deadline."""
    expected_generation: int = 0
    """Generation that `expected_head` ends; 0 when the client does not know."""
    migrates_to: str = ""
    """Revision to which sessions of other revisions migrate: their length in the old tokens is not checked, and nothing
    is reserved at their owner. Empty: they do not migrate."""
    drops_thinking: bool = False
    """Whether the step begins a turn before which thinking leaves the log; with it, the length is not checked."""
    entry: Entry = UNCOUNTED
    rules: BudgetRules = NO_BUDGETS
    opens_turn: bool = False
    """Whether it begins with a user's message."""
    demand: Demand = Demand()  # noqa: RUF009  # frozen
    first_worker: str = ""
    """Worker to reserve at if the session has no log yet, unless the step was sent to one before; empty: none."""


@dataclass(frozen=True, slots=True)
class Began:
    """Begin took an attempt."""

    ref: AttemptRef
    seed: int
    descriptor: Descriptor
    reserved: str
    """Worker on which the KV tokens are reserved: the owner that has the session cached, where the fenced attempt ran,
    or `first_worker`; empty: a worker has to be chosen."""
    fenced: LiveAttempt | None
    """Attempt of the same step that this one replaced; its output may be resumed at its worker."""
    cached_tokens: int = 0
    """Tokens of the log that the owner has cached on its device, as it publishes."""
    warm_tokens: int = 0
    """Tokens behind those that it has in host memory."""
    gated: bool = False
    """Whether the session is not live, so that the step has to pass the gate."""
    budgets: tuple[BudgetStatus, ...] = ()
    """Those to warn of."""
    counter: int = 0
    """The tenant's counter now (`roost.store.service`)."""


@dataclass(frozen=True, slots=True)
class AlreadyCommitted:
    """The stored result of a step that had been committed before."""

    entry: LogEntry
    descriptor: Descriptor
    prompt_ids: bytes
    output_ids: bytes
    generation: int = 1
    """Log that holds it."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A claim on a worker's KV tokens for one attempt."""

    pool: str
    session_id: str
    ref: AttemptRef
    worker_id: str
    tokens: int
    priority: int
    deadline_ms: int
    lease_ms: int
    revision: str = ""
    """Model revision that the step needs, which names its line; empty: any worker can serve it."""
    entry: Entry = UNCOUNTED
    lost_tokens: int = 0
    """Tokens of its log that a live session has lost while the step waited, so that it is not live any more and has to
    pass the gate; 0: it has kept its KV."""
    waited_ms: int = 0
    """How long it has waited, in whatever line."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Arguments of Commit. `entry.head` is the log after the step, computed by the gateway over the ids."""

    session_id: str
    ref: AttemptRef
    previous: Head
    entry: LogEntry
    packed_ids: bytes
    """Prompt then output ids, little-endian uint32."""
    ttl_ms: int
    owner: str
    rules: BudgetRules = NO_BUDGETS

    @property
    def spending(self) -> Spending:
        """What the step has used: of its own tokens, those that no cache had. The log's that were computed again do not
        count."""
        entry = self.entry
        cached = min(entry.prompt_tokens, max(0, entry.cached_tokens - self.previous.length))
        return spending(entry.prompt_tokens - cached + entry.output_tokens, entry.gpu_seconds, 1)


@dataclass(frozen=True, slots=True)
class MigrateRequest:
    """Arguments of Migrate: the whole log in the tokens of another revision, or without earlier turns' thinking."""

    session_id: str
    ref: AttemptRef
    previous: Head
    """Head of the generation that ends here."""
    entries: tuple[LogEntry, ...]
    """The steps of that generation, rendered again or as they were; each keeps its `commit_ms`."""
    packed_ids: bytes
    """All of their prompt and output ids, little-endian uint32."""
    model_revision: str
    ttl_ms: int
    lease_ms: int
    without_thinking: int = 0
    """How many of the first steps have no thinking among their tokens, whatever the model thought."""
    folded: int = 0
    """First steps of the old log that the first of `entries` stands for, which is the attempt's own step; 0: each entry
    stands for one step, and the attempt goes on."""
    renews_budget: bool = False
    """Whether the session's own budget begins again."""


@dataclass(frozen=True, slots=True)
class RenewItem:
    """An attempt whose lease, reservation and place among the waiters are to be renewed."""

    session_id: str
    ref: AttemptRef
