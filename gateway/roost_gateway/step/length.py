"""Refuses a step whose text cannot fit, before a worker renders it. Only the worker knows the rest exactly."""

from roost.contract.lease import counted_bytes, fewest_tokens
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.fleet.workers import Workers
from roost_gateway.step.attempt import StepAttempt


def check_length(attempt: StepAttempt, workers: Workers) -> None:
    """Raises Refused: STEP_TOO_LONG when log and messages are too long however the messages are encoded.

    System text and tools do not count: a template may write them shorter.
    """
    pool, log_tokens = attempt.pool, attempt.descriptor.head.length
    limit = pool.token_limit
    size = counted_bytes(message.content for message in attempt.call.request.messages)
    if not limit or log_tokens + size < limit:  # it fits with a token for each byte
        return
    least = fewest_tokens(size, workers.max_bytes_per_token(pool.pool, attempt.need.model_revision))
    if least and log_tokens + least >= limit:
        raise Refused(
            Reason.STEP_TOO_LONG,
            f"the log has {log_tokens} tokens and this step's {size} bytes of messages at least {least}: together they "
            f"must be fewer than the {limit} tokens that fit; shorten the messages or open a new session",
            metadata={"log_tokens": str(log_tokens), "prompt_tokens": str(least), "limit_tokens": str(limit)},
        )
