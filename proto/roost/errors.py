"""Errors of the SDK. Every error has `.status`, `.reason`, `.retry_after` and `.message`.

    RoostError
    ├── InvalidRequestError          INVALID_ARGUMENT
    │   ├── InvalidSchemaError
    │   ├── StepTooLongError
    │   └── MessageTooLargeError
    ├── AuthenticationError          UNAUTHENTICATED
    ├── PoolNotAllowedError          PERMISSION_DENIED
    ├── NotFoundError                NOT_FOUND
    │   ├── PoolNotFoundError
    │   ├── RoleNotFoundError
    │   └── SessionNotFoundError
    ├── PreconditionError            FAILED_PRECONDITION
    │   ├── SessionClosedError
    │   ├── HeadMismatchError
    │   ├── ModelRevisionMismatchError
    │   ├── BudgetExhaustedError
    │   ├── StepLimitReachedError
    │   ├── StepIdReusedError
    │   └── PoolSuspendedError
    ├── ConflictError                ABORTED
    │   ├── AnotherStepRunningError
    │   └── AttemptFencedError
    ├── SessionRolledBackError       DATA_LOSS
    ├── OverloadedError              RESOURCE_EXHAUSTED
    │   ├── QueueFullError
    │   ├── QueueTimeoutError
    │   └── StoreFullError
    ├── UnavailableError             UNAVAILABLE, or the connection broke
    │   ├── StoreUnavailableError
    │   ├── CommitUnknownError
    │   └── WorkerUnavailableError
    ├── DeadlineExceededError        DEADLINE_EXCEEDED
    ├── StepCancelledError           CANCELLED
    ├── InternalError                INTERNAL, UNKNOWN and whatever else
    └── StreamError                  the gateway broke the contract of its stream

A call is resent after UnavailableError and OverloadedError until its deadline, or until it got no further for
`RetryConfig.give_up_after` seconds: an application sees those two only when waiting did not help. The rest tell the
application something and are raised at once. A closed client raises RuntimeError, values that cannot be sent TypeError
or ValueError.
"""

from collections.abc import Mapping

import grpc

from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.grpc_errors import code_of


class RoostError(Exception):
    """Base of every error that the SDK raises for an answer, or for the lack of one."""

    def __init__(
        self,
        message: str,
        *,
        status: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """gRPC status."""
        self.reason = reason
        """A `roost.contract.reasons.Reason`; empty when no gateway gave one, unknown when the gateway is newer."""
        self.retry_after = retry_after
        """Seconds after which coming back can help, when the gateway said so."""
        self.metadata = dict(metadata or {})
        """What else the gateway told, `ErrorInfo.metadata`."""
        self.tries = 1
        """How often the call was sent."""
        self.step_id = ""
        """The step that failed, if it was one: the same step id finds out what became of it."""

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or self.status.name})"


class InvalidRequestError(RoostError):
    """The request can never succeed as it is."""


class InvalidSchemaError(InvalidRequestError):
    """A JSON schema is malformed, unsupported or too large."""


class StepTooLongError(InvalidRequestError):
    """The log and the step together do not fit the model's context or the session's limit."""


class MessageTooLargeError(InvalidRequestError):
    """The request is larger than the gateway takes."""


class AuthenticationError(RoostError):
    """The API key is missing or unknown."""


class PoolNotAllowedError(RoostError):
    """The API key does not reach this pool."""


class NotFoundError(RoostError):
    """What the request names does not exist, or belongs to another tenant."""


class PoolNotFoundError(NotFoundError):
    """No such pool."""


class RoleNotFoundError(NotFoundError):
    """The pool has no such role."""


class SessionNotFoundError(NotFoundError):
    """No such session; it may have expired or been deleted."""


class PreconditionError(RoostError):
    """The session or the pool is in a state that does not allow this."""


class SessionClosedError(PreconditionError):
    """The session takes no more steps."""


class HeadMismatchError(PreconditionError):
    """The log is longer than the client thinks: someone else took a step. Read it with `Session.steps`."""


class ModelRevisionMismatchError(PreconditionError):
    """The session is bound to another revision of the model."""


class BudgetExhaustedError(PreconditionError):
    """The role's token budget for one session is used up."""


class StepLimitReachedError(PreconditionError):
    """The role's number of steps for one session is used up."""


class StepIdReusedError(PreconditionError):
    """The step id was used with other content."""


class PoolSuspendedError(PreconditionError):
    """The pool takes no work now."""


class ConflictError(RoostError):
    """Another call was at work on the same session."""


class AnotherStepRunningError(ConflictError):
    """A different step runs in the session; `retry_after` is what its lease lasts."""


class AttemptFencedError(ConflictError):
    """Someone else resent this step and has taken it over."""


class SessionRolledBackError(RoostError):
    """The store has lost committed steps that this client saw, after a failover of Redis.

    `expected` is the head the client saw, `actual` the head the store has now, where the gateway told it.
    """

    expected: Head | None = None
    actual: Head | None = None

    def __str__(self) -> str:
        seen = f"; this client saw {self.expected.length} tokens" if self.expected else ""
        found = f", the store has {self.actual.length}" if self.actual else ""
        return super().__str__() + seen + found


class OverloadedError(RoostError):
    """There is no room now."""


class QueueFullError(OverloadedError):
    """The queue of waiting steps is full."""


class QueueTimeoutError(OverloadedError):
    """The step waited for room as long as the pool allows."""


class StoreFullError(OverloadedError):
    """The store takes no new sessions."""


class UnavailableError(RoostError):
    """No gateway answers, or what it needs is away."""


class StoreUnavailableError(UnavailableError):
    """Redis is away."""


class CommitUnknownError(UnavailableError):
    """The step may or may not be committed; resending the same step id tells."""


class WorkerUnavailableError(UnavailableError):
    """The pool has no worker for the step now."""


class DeadlineExceededError(RoostError):
    """The deadline passed first. A step may be committed all the same; its `step_id` tells."""


class StepCancelledError(RoostError):
    """The call was cancelled."""


class InternalError(RoostError):
    """Something is broken on the server's side."""


class StreamError(RoostError):
    """The gateway's stream had a gap or ended in a way that the contract does not allow."""


STATUSES: Mapping[grpc.StatusCode, type[RoostError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: PoolNotAllowedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.DATA_LOSS: SessionRolledBackError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: StepCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}
"""The class raised for a status whose reason is missing or unknown; InternalError for any other."""

_OWN_CLASSES: Mapping[Reason, type[RoostError]] = {
    Reason.INVALID_SCHEMA: InvalidSchemaError,
    Reason.STEP_TOO_LONG: StepTooLongError,
    Reason.MESSAGE_TOO_LARGE: MessageTooLargeError,
    Reason.POOL_NOT_FOUND: PoolNotFoundError,
    Reason.ROLE_NOT_FOUND: RoleNotFoundError,
    Reason.SESSION_NOT_FOUND: SessionNotFoundError,
    Reason.SESSION_CLOSED: SessionClosedError,
    Reason.HEAD_MISMATCH: HeadMismatchError,
    Reason.MODEL_REVISION_MISMATCH: ModelRevisionMismatchError,
    Reason.BUDGET_EXHAUSTED: BudgetExhaustedError,
    Reason.STEP_LIMIT_REACHED: StepLimitReachedError,
    Reason.STEP_ID_REUSED: StepIdReusedError,
    Reason.POOL_SUSPENDED: PoolSuspendedError,
    Reason.ANOTHER_STEP_RUNNING: AnotherStepRunningError,
    Reason.ATTEMPT_FENCED: AttemptFencedError,
    Reason.QUEUE_FULL: QueueFullError,
    Reason.QUEUE_TIMEOUT: QueueTimeoutError,
    Reason.STORE_FULL: StoreFullError,
    Reason.STORE_UNAVAILABLE: StoreUnavailableError,
    Reason.COMMIT_UNKNOWN: CommitUnknownError,
    Reason.NO_WORKER: WorkerUnavailableError,
    Reason.WORKER_DRAINING: WorkerUnavailableError,
    Reason.WORKER_LOST: WorkerUnavailableError,
}

REASONS: Mapping[str, type[RoostError]] = {
    reason: _OWN_CLASSES.get(reason) or STATUSES[code_of(reason)] for reason in Reason
}
"""The class raised for each reason: its own, or that of the status that carries it."""
