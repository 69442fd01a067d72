"""Which worker may serve an attempt, and when none ever will."""

import time

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.why import WaitReason
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import Choice
from roost_gateway.routing.gate import is_open
from roost_gateway.routing.revisions import serves_revision, turned_away, wrong_revision
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.call import StepCall


class Prospects:
    """What attempts can expect of the workers that live."""

    def __init__(self, fleet: Fleet) -> None:
        self._pools = fleet.pools
        self._workers = fleet.workers

    def choose(self, attempt: StepAttempt) -> Choice | None:
        """The best worker for an attempt, or None when no worker may serve it."""
        gate_seconds = time.monotonic() - attempt.began_at if attempt.is_gated else None
        return self._workers.choose(attempt.pool.pool, attempt.need, attempt.excluded(), gate_seconds)

    def first_worker(self, call: StepCall) -> str:
        """The worker that, by the last reading of the leases, has room at once for the first step of a session; empty
        if none has, or if the session has a log."""
        if call.fold is not None or call.has_log:
            return ""
        need, is_gated = call.first_need, call.pool.has_gate
        choice = self._workers.choose(call.pool.pool, need, frozenset(), 0.0 if is_gated else None)
        if choice is None or not choice.may_be_granted or choice.tokens < need.tokens:
            return ""
        is_closed = is_gated and not is_open(choice.worker, need.gate_tokens)
        return "" if is_closed else choice.worker.worker_id

    def wait_reason(self, attempt: StepAttempt) -> WaitReason:
        """Why no worker takes an attempt at once that waits behind nobody."""
        if self.choose(attempt) is not None:
            return WaitReason.NO_ROOM
        workers = self._workers.states(attempt.pool.pool)
        is_served = not workers or serves_revision(attempt.need.model_revision, workers)
        return WaitReason.NO_WORKER if is_served else WaitReason.NO_REVISION

    def turned_away(self, attempt: StepAttempt) -> Refused | None:
        """The refusal of an attempt that no worker will ever serve, or None. Uses the current pool document, which may
        be newer than the call's."""
        if self._workers.grace.is_on(attempt.pool.pool):
            return None  # a worker of the revision may not have published itself yet
        pool = self._pools.known(attempt.pool.pool) or attempt.pool
        if attempt.need.model_revision in ("", pool.active_revision):
            return None  # the usual case, asked of every line whenever something is released
        return turned_away(pool, attempt.need.model_revision, self._workers.states(pool.pool))

    def failed_everywhere(self, attempt: StepAttempt) -> Refused | None:
        """The refusal of an attempt that has failed on every living worker that could serve it, or None: where none
        lives, one may come, and one that is only marked broken, as after another step's stream broke, may do better."""
        pool, need = attempt.pool.pool, attempt.need
        if self._workers.grace.is_on(pool) or not (faulty := attempt.faulty()):
            return None
        if self._workers.any_living(pool, need, faulty) or not self._workers.choose(pool, need, frozenset()):
            return None
        return attempt.given_up()

    def timeout(self, attempt: StepAttempt, retry_seconds: float) -> Refused:
        """The refusal of an attempt that has waited for as long as it may."""
        pool, revision = attempt.pool, attempt.need.model_revision
        refusal, workers = self.turned_away(attempt), self._workers.states(pool.pool)
        if refusal is not None:
            return refusal
        if workers and not pool.migrates and not serves_revision(revision, workers):
            return wrong_revision(revision)
        if self.choose(attempt) is None:
            return Refused(Reason.NO_WORKER, f"no worker of pool {pool.pool} takes steps now", retry_seconds=2.0)
        return Refused(
            Reason.QUEUE_TIMEOUT,
            f"no worker of pool {pool.pool} had room in time",
            retry_seconds=retry_seconds,
        )
