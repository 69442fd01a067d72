"""Has a pool's model write the summary of a session's log, in a fork, which shares the KV of that."""

import contextlib
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from roost.contract.events import Committed
from roost.contract.refused import Refused, invalid
from roost.contract.sessions import ForkRequest, SessionInfo
from roost.contract.steps import StepRequest
from roost.store.folding import summary_step
from roost.store.records import StoreAwayError
from roost_gateway.core.caller import Caller
from roost_gateway.core.step_calls import StepEvents


class Forking(Protocol):
    """What a summary takes of the gateway."""

    async def fork(self, request: ForkRequest, caller: Caller, seconds_left: float | None) -> SessionInfo: ...

    def step(
        self, request: StepRequest, caller: Caller, seconds_left: float | None = None
    ) -> AbstractAsyncContextManager[StepEvents]: ...

    async def delete(self, session_id: str, caller: Caller) -> None: ...


async def write_summary(gateway: Forking, session_id: str, caller: Caller, deadline: float) -> str:
    """Returns the summary. `deadline` is in seconds of `time.monotonic`. Raises Refused, StoreAwayError."""
    fork = await gateway.fork(ForkRequest(session_id), caller, deadline - time.monotonic())
    summary = ""
    try:
        async with gateway.step(summary_step(fork.id), caller, deadline - time.monotonic()) as events:
            async for event in events:
                if isinstance(event, Committed):
                    summary = event.output.content
    finally:
        with contextlib.suppress(Refused, StoreAwayError):  # it then goes with its idle time
            await gateway.delete(fork.id, caller)
    if not summary.strip():
        raise invalid([("summary", "the model wrote none; give one")])
    return summary
