"""A logged step as the event that ended it. Pure."""

from roost.contract.events import Committed
from roost.contract.sessions import LoggedStep


def committed_of(step: LoggedStep) -> Committed:
    """The event that ended a logged step, as a client that repeats it gets it."""
    return Committed(
        step_id=step.step_id,
        output=step.output,
        finish_reason=step.finish_reason,
        usage=step.usage,
        head=step.head,
        index=step.index,
        queue_ms=0,
        first_token_ms=0,
        seed=step.sampling.seed or 0,
        replayed=True,
        output_tokens=step.usage.output_tokens,
        failovers=0,
        reasoning=step.reasoning,
        reasoning_tokens=step.reasoning_tokens,
    )
