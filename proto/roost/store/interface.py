"""The store as a gateway sees it: `roost.store.redis_store`, or for tests `roost.store.memory`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from roost.contract.heads import AttemptRef, Head
from roost.store.budgets import ExtendRequest
from roost.store.conversation_index import ConversationIndex
from roost.store.detached import DetachedSteps
from roost.store.entry import Reserved
from roost.store.fork_records import NewFork
from roost.store.kept_conversations import KeptConversationStore
from roost.store.moves import SessionMoves
from roost.store.records import (
    AlreadyCommitted,
    Began,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LogEntry,
    MigrateRequest,
    NewSession,
    RenewItem,
    Reservation,
)
from roost.store.residency import Residency
from roost.store.service import NOTHING_DONE, Done
from roost.store.store_health import StoreHealth
from roost.store.wake import Wake
from roost.store.worker_views import WorkerLook, WorkerView


class SessionStore(Protocol):
    """Session records, the admission ledger and the workers' leases of all pools.

    Every call is one round trip unless its docstring says otherwise, checks everything before it writes, and may be
    repeated. All raise `StoreAwayError` when Redis does not answer, and `Refused` for the reasons that their
    docstrings list. Session names are well-formed (`names.pool_of`); the caller has checked that.
    """

    @property
    def conversations(self) -> ConversationIndex: ...

    @property
    def kept_conversations(self) -> KeptConversationStore: ...

    @property
    def detached(self) -> DetachedSteps: ...

    @property
    def moves(self) -> SessionMoves: ...

    def grace_seconds(self, pool: str) -> float:
        """What is left of the time after the store came back in which no lease of a pool expires; all of it while the
        part of the store that has the pool is away."""
        ...

    async def health(self) -> StoreHealth:
        """Checks persistence and eviction settings. Several round trips; called at connect and on reconnect."""
        ...

    async def pools(self) -> list[str]: ...

    async def pool_document(self, pool: str) -> dict[str, Any] | None: ...

    async def open(self, new: NewSession) -> Descriptor:
        """Writes a new session; a repeated `request_id` returns the session that it opened. Refuses: STORE_FULL."""
        ...

    async def fork(self, new: NewFork) -> Descriptor:
        """Writes a session that shares the log of another one up to a point, without a copy of it; a repeated
        `request_id` returns the session that it made. Refuses: SESSION_NOT_FOUND, STORE_FULL; HEAD_MISMATCH when the
        other has a newer generation; SESSION_ROLLED_BACK when its log is not whole or has not come to the point."""
        ...

    async def opened(self, pool: str, tenant: str, request_id: str) -> Descriptor | None:
        """The session that a request opened, or None if it opened none or the session is gone. Two round trips."""
        ...

    async def get(self, session_id: str, tenant: str) -> Descriptor:
        """Refuses: SESSION_NOT_FOUND."""
        ...

    async def list_sessions(self, pool: str, tenant: str, after: str, count: int) -> list[Descriptor]:
        """The tenant's sessions of a pool after the name `after` (empty: from the start). Two round trips.
        Skips erased and expired sessions, and removes their names from the index."""
        ...

    async def begin(self, request: BeginRequest) -> Began | AlreadyCommitted:
        """Takes an attempt: checks, fences an uncommitted attempt of the same step, draws the epoch, stores the seed,
        and reserves tokens at the owner when it lives, has the session cached, has room and no step waits that goes
        first; ends a hold. A resent script with the same nonce returns the same attempt. Refuses: SESSION_NOT_FOUND,
        SESSION_CLOSED, SESSION_ROLLED_BACK, HEAD_MISMATCH, ANOTHER_STEP_RUNNING, STEP_KILLED_WORKERS,
        BUDGET_EXHAUSTED, BUDGET_EXCEEDED, BUDGET_PAUSED, STEP_LIMIT_REACHED, STEP_ID_REUSED, STEP_TOO_LONG."""
        ...

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Reserves at a worker; on success leaves the waiters, and the session is live there. Not granted, with a place
        in a line of its revision, when the worker has no room or no lease, when its gate is closed to the session, or
        when a step waits that the worker can serve and that goes first. Refuses: SESSION_NOT_FOUND, ATTEMPT_FENCED."""
        ...

    async def release(self, reservation: Reservation) -> None:
        """Gives back a reservation and a place among the waiters; the attempt stays live."""
        ...

    async def commit(self, request: CommitRequest) -> LogEntry:
        """Appends the step, moves the head, counts what it has used, corrects its tenant's counter, releases the
        reservation, wakes waiters. Returns the stored entry with the budgets to warn of, also when the same attempt had
        committed it before. Refuses: SESSION_NOT_FOUND, ATTEMPT_FENCED, MODEL_REVISION_MISMATCH; SESSION_ROLLED_BACK or
        HEAD_MISMATCH when `previous` is not the head. Raises ValueError when the request contradicts itself (ids,
        counts and head)."""
        ...

    async def extend(self, request: ExtendRequest) -> Descriptor:
        """Raises the limits of a session's budgets, or of those of its task. The same request, given twice in a row,
        does so once. Refuses: SESSION_NOT_FOUND."""
        ...

    async def migrate(self, request: MigrateRequest) -> Descriptor:
        """Begins a new generation under a live attempt, which continues in it, or ends with it when the log is folded;
        repeating the call changes nothing. The old generation stays readable, and its last head is remembered as
        `Descriptor.former`. Refuses: SESSION_NOT_FOUND, ATTEMPT_FENCED, STORE_FULL; SESSION_ROLLED_BACK or
        HEAD_MISMATCH when `previous` is not the head. Raises ValueError when the request contradicts itself."""
        ...

    async def abort(self, session_id: str, ref: AttemptRef, done: Done = NOTHING_DONE) -> int | None:
        """Ends an attempt that will not commit; gives back what it has reserved, and charges its tenant for what it has
        done. Does nothing when it is not live. Returns the tenant's counter, or None when there is no such session."""
        ...

    async def quarantine(self, session_id: str, digest: bytes, ms: int) -> None:
        """Lets Begin refuse steps with this content digest for `ms`, STEP_KILLED_WORKERS: of the session, and of all
        sessions that are branched off one another with it. Refuses: STORE_FULL."""
        ...

    async def renew(self, pool: str, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        """Renews leases in one batch; False for each attempt that is not live any more."""
        ...

    async def hold(
        self, session_id: str, tenant: str, tool: str, expect_seconds: float, head: Head | None, generation: int = 0
    ) -> Descriptor:
        """`generation` is that of `head`; 0 when unknown. Refuses: SESSION_NOT_FOUND, SESSION_CLOSED,
        ANOTHER_STEP_RUNNING, SESSION_ROLLED_BACK, HEAD_MISMATCH."""
        ...

    async def evict(self, session_id: str, tenant: str) -> tuple[Descriptor, int]:
        """Takes an epoch for an eviction (second value) and forgets the owner. Refuses: SESSION_NOT_FOUND,
        ANOTHER_STEP_RUNNING."""
        ...

    async def close(self, session_id: str, tenant: str) -> Descriptor:
        """Closing a closed session changes nothing. Refuses: SESSION_NOT_FOUND, ANOTHER_STEP_RUNNING."""
        ...

    async def delete(self, session_id: str, tenant: str, head: Head | None = None) -> int:
        """Erases descriptor, index entry and logs, but for what forks need of these; returns an epoch for the eviction.
        With `head` only while that is the session's head, as long as nothing was committed after it. Refuses:
        SESSION_NOT_FOUND, ANOTHER_STEP_RUNNING, HEAD_MISMATCH, SESSION_ROLLED_BACK."""
        ...

    async def ids(self, session_id: str, generation: int, start: int, end: int) -> bytes:
        """Packed ids of positions [start, end)."""
        ...

    async def log(self, session_id: str, generation: int, first: int, count: int) -> list[LogEntry]: ...

    async def step_place(self, session_id: str, step_id: str) -> tuple[int, int] | None:
        """Generation in which the session itself has committed a step, and the step's index there; None when it has
        not."""
        ...

    async def workers(self, pool: str) -> list[WorkerView]:
        """Workers with a lease in force, with what is reserved at them."""
        ...

    async def residency(self, pool: str, worker_ids: Sequence[str], session_ids: Sequence[str]) -> dict[str, Residency]:
        """Where sessions are that any of the workers published: each with the worker that has most of it cached."""
        ...

    async def look(self, pool: str, worker_id: str, session_id: str) -> WorkerLook:
        """One worker, and how many tokens of a session it publishes as cached."""
        ...

    def wakes(self, pool: str) -> AsyncIterator[Wake]:
        """Yields what any gateway released in the pool, at most a second late; may yield without a release."""
        ...

    async def aclose(self) -> None: ...
