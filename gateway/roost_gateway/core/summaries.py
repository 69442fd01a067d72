"""Has a pool's model write the summary of a session's log, in a fork, which shares the KV of that."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from roost.contract.events import Committed
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost.contract.sessions import ForkRequest, SessionInfo
from roost.contract.steps import StepRequest
from roost.store.folding import summary_step
from roost.store.records import StoreAwayError
from roost_gateway.core.caller import Caller
from roost_gateway.core.step_calls import StepEvents

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.02, 0.5


class Forking(Protocol):
    """What a summary takes of the gateway."""

    async def fork(self, request: ForkRequest, caller: Caller, seconds_left: float | None) -> SessionInfo: ...

    def step(
        self, request: StepRequest, caller: Caller, seconds_left: float | None = None
    ) -> AbstractAsyncContextManager[StepEvents]: ...

    async def delete(self, session_id: str, caller: Caller) -> None: ...


async def write_summary(gateway: Forking, session_id: str, caller: Caller, deadline: float) -> str:
    """Returns the summary. `deadline` is in seconds of `time.monotonic`. Raises Refused, StoreAwayError."""
    forking = asyncio.create_task(gateway.fork(ForkRequest(session_id), caller, deadline - time.monotonic()))
    summary = ""
    try:
        fork = await asyncio.shield(forking)  # if its answer were lost, nobody would know the id to delete
        async with gateway.step(summary_step(fork.id), caller, deadline - time.monotonic()) as events:
            async for event in events:
                if isinstance(event, Committed):
                    summary = event.output.content
    finally:
        await asyncio.wait([forking])
        if forking.exception() is None:
            await _delete(gateway, forking.result().id, caller)
    if not summary.strip():
        raise invalid([("summary", "the model wrote none; give one")])
    return summary


async def _delete(gateway: Forking, fork_id: str, caller: Caller) -> None:
    """Deletes a fork. When its step has just been cut off, its attempt is still being ended, which does not take long.
    A fork that cannot be deleted goes with its idle time, such as one that a closing gateway leaves to the next."""
    wait, give_up = _FIRST_LOOK_SECONDS, time.monotonic() + LEASE_TTL_SECONDS
    while True:
        try:
            await gateway.delete(fork_id, caller)
            return
        except StoreAwayError:
            return
        except Refused as error:
            if error.reason is not Reason.ANOTHER_STEP_RUNNING or time.monotonic() + wait > give_up:
                return
        await asyncio.sleep(wait)
        wait = min(_LONGEST_LOOK_SECONDS, 2 * wait)
