"""Live sessions whose KV is evicted while their steps wait for room."""

from roost.store.working_set import is_evicted
from roost_gateway.fleet.workers import Workers
from roost_gateway.step.attempt import StepAttempt


async def look_for_log(attempt: StepAttempt, workers: Workers) -> bool:
    """Whether too much of a live session's log was evicted at its home while its step waited, which the attempt notes.

    Without KV the step would compute the log again and displace others' logs by that, like a step of any session that
    is not live: so it has to pass the gate. Raises StoreAwayError.
    """
    pool, home = attempt.pool.pool, attempt.descriptor.owner
    if not attempt.may_lose_log or workers.get(pool, home) is None:  # else it is lost with its worker
        return False
    residency = await workers.look(pool, home, attempt.session_id)
    attempt.cached_at(residency)
    worker, log_tokens = workers.get(pool, home), attempt.need.log_tokens
    kept_tokens = residency.cached_tokens + residency.warm_tokens
    if worker is None or not is_evicted(log_tokens, kept_tokens, is_over=worker.live_tokens > worker.live_limit):
        return False
    attempt.lost_log(log_tokens - kept_tokens)
    return True
