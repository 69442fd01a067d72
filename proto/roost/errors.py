"""Errors of the SDK. Every error has `.status`, `.reason`, `.retry_after` and `.message`.

    RoostError
    ├── InvalidRequestError          INVALID_ARGUMENT
    │   ├── InvalidSchemaError
    │   ├── StepTooLongError
    │   └── MessageTooLargeError
    ├── AuthenticationError          UNAUTHENTICATED
    ├── PermissionDeniedError        PERMISSION_DENIED
    │   ├── PoolNotAllowedError
    │   └── RightMissingError
    ├── NotFoundError                NOT_FOUND
    │   ├── PoolNotFoundError
    │   ├── RoleNotFoundError
    │   └── SessionNotFoundError
    ├── PreconditionError            FAILED_PRECONDITION
    │   ├── SessionClosedError
    │   ├── HeadMismatchError
    │   ├── ModelRevisionMismatchError
    │   ├── BudgetExhaustedError
    │   ├── BudgetExceededError
    │   │   └── BudgetPausedError
    │   ├── RepetitionStoppedError
    │   ├── StepLimitReachedError
    │   ├── StepIdReusedError
    │   ├── StepKilledWorkersError
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
    ├── InternalError                INTERNAL, UNKNOWN and all others
    └── StreamError                  the gateway broke the contract of its stream

UnavailableError and OverloadedError are retried until the call's deadline, or until it has made no progress for
`RetryConfig.give_up_after` seconds, so an application sees them only when waiting did not help. All others are raised
at once. A closed client raises RuntimeError; values that cannot be sent raise TypeError or ValueError.
"""

from collections.abc import Mapping

import grpc

from roost.contract.budgets import BudgetStatus
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.grpc_errors import code_of


class RoostError(Exception):
    """Base of all errors of calls: the gateway refused the call, or did not answer."""

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
        """`ErrorInfo.metadata`: what else the gateway says of the error, for programs."""
        self.tries = 1
        """How many times the call was sent."""
        self.step_id = ""
        """Step that failed; empty for other calls. Send the same step id again to continue it or get its result."""

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or self.status.name})"


class InvalidRequestError(RoostError):
    """The request can never succeed as it is."""


class InvalidSchemaError(InvalidRequestError):
    """A JSON schema is malformed, unsupported or too large."""


class StepTooLongError(InvalidRequestError):
    """The log and the step together do not fit the model's context or the session's limit."""


class MessageTooLargeError(InvalidRequestError):
    """The request is larger than the gateway accepts."""


class AuthenticationError(RoostError):
    """The API key is missing or unknown."""


class PermissionDeniedError(RoostError):
    """The API key does not allow this."""


class RightMissingError(PermissionDeniedError):
    """The API key lacks a right that the call needs; who keeps the gateways' key file can give it."""


class PoolNotAllowedError(PermissionDeniedError):
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
    """The session has been closed and takes no more steps."""


class HeadMismatchError(PreconditionError):
    """The log has steps that the client does not know: another client took them. Read them with `Session.steps`."""


class ModelRevisionMismatchError(PreconditionError):
    """The session's log belongs to a revision of the model that is no longer served."""


class BudgetExhaustedError(PreconditionError):
    """The session has used its role's token budget."""


class BudgetExceededError(PreconditionError):
    """A budget of the session's role, its task or its tenant is used up. A budget that is counted in windows comes back
    after `retry_after`."""

    @property
    def budget(self) -> BudgetStatus | None:
        """The budget that is used up; None when the gateway is newer and knows another kind."""
        return BudgetStatus.from_metadata(self.metadata)


class BudgetPausedError(BudgetExceededError):
    """The session is paused, because a budget is used up. Once a client with that right has extended it
    (`Session.extend_budget`), send the same step again."""


class RepetitionStoppedError(PreconditionError):
    """The session is stopped, because its calls repeat. It goes on with a step that begins with a user's message."""


class StepLimitReachedError(PreconditionError):
    """The session has taken as many steps as its role allows."""


class StepIdReusedError(PreconditionError):
    """The step id belongs to a step with other content."""


class StepKilledWorkersError(PreconditionError):
    """Workers died while they ran this step, so the session refuses it for a time; `retry_after` is how long. Other
    steps of the session are taken."""


class PoolSuspendedError(PreconditionError):
    """The pool is suspended."""


class ConflictError(RoostError):
    """Another call is at work on the same session."""


class AnotherStepRunningError(ConflictError):
    """A different step is running in the session; `retry_after` is how long its lease lasts."""


class AttemptFencedError(ConflictError):
    """The same step was sent again, and the newer call has taken it over."""


class SessionRolledBackError(RoostError):
    """The store has lost committed steps that this client knows, after a failover of Redis.

    `expected` is the head that the client knows, `actual` the head that the store has now; None when unknown.
    """

    expected: Head | None = None
    actual: Head | None = None

    def __str__(self) -> str:
        expected = f"; this client saw {self.expected.length} tokens" if self.expected else ""
        actual = f", the store has {self.actual.length}" if self.actual else ""
        return super().__str__() + expected + actual


class OverloadedError(RoostError):
    """There is no room for the request at the moment."""


class QueueFullError(OverloadedError):
    """The queue of waiting steps is full."""


class QueueTimeoutError(OverloadedError):
    """The step waited for room as long as the pool allows."""


class StoreFullError(OverloadedError):
    """The store takes no new sessions."""


class UnavailableError(RoostError):
    """No gateway answers, or the gateway lacks its store or a worker."""


class StoreUnavailableError(UnavailableError):
    """Redis does not answer the gateway."""


class CommitUnknownError(UnavailableError):
    """The step may or may not be committed; send the same step id again to find out."""


class WorkerUnavailableError(UnavailableError):
    """The pool has no worker for the step at the moment, or its workers failed on the step."""


class DeadlineExceededError(RoostError):
    """The deadline passed. A step may be committed nevertheless; send the same step id again to find out."""


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
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
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
"""Class for a status without a reason, or with an unknown one; InternalError for other statuses."""

_OWN_CLASSES: Mapping[Reason, type[RoostError]] = {
    Reason.INVALID_SCHEMA: InvalidSchemaError,
    Reason.STEP_TOO_LONG: StepTooLongError,
    Reason.MESSAGE_TOO_LARGE: MessageTooLargeError,
    Reason.POOL_NOT_ALLOWED: PoolNotAllowedError,
    Reason.RIGHT_MISSING: RightMissingError,
    Reason.POOL_NOT_FOUND: PoolNotFoundError,
    Reason.ROLE_NOT_FOUND: RoleNotFoundError,
    Reason.SESSION_NOT_FOUND: SessionNotFoundError,
    Reason.SESSION_CLOSED: SessionClosedError,
    Reason.HEAD_MISMATCH: HeadMismatchError,
    Reason.MODEL_REVISION_MISMATCH: ModelRevisionMismatchError,
    Reason.BUDGET_EXHAUSTED: BudgetExhaustedError,
    Reason.BUDGET_EXCEEDED: BudgetExceededError,
    Reason.BUDGET_PAUSED: BudgetPausedError,
    Reason.REPETITION_STOPPED: RepetitionStoppedError,
    Reason.STEP_LIMIT_REACHED: StepLimitReachedError,
    Reason.STEP_ID_REUSED: StepIdReusedError,
    Reason.STEP_KILLED_WORKERS: StepKilledWorkersError,
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
    Reason.WORKER_FAILED: WorkerUnavailableError,
}

REASONS: Mapping[str, type[RoostError]] = {
    reason: _OWN_CLASSES.get(reason) or STATUSES[code_of(reason)] for reason in Reason
}
"""Class for each reason: its own, or that of the status that carries it."""
