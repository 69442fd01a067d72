"""Steps that several clients may ask for at once, since equal requests of a conversation are one step."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from roost.contract.events import Delta, Event
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.parts import units
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import Cursor, StepRequest
from roost.store.records import AlreadyCommitted, Began
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a step, of which pool, and until when."""

    caller: Caller
    pool: PoolDocument
    deadline: float | None
    """In seconds of `time.monotonic`; None when the caller has none."""

    @property
    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()


@dataclass(frozen=True, slots=True)
class SharedStep:
    """A step that has begun."""

    began: Began | AlreadyCommitted
    events: AsyncIterator[Event]


class SharedSteps:
    """Takes steps. A client whose attempt another one takes over, because it asks for the same step, gets the rest of
    the output from there."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._running = Counter[str]()

    @property
    def sessions(self) -> frozenset[str]:
        """Sessions with a step for a client of this gateway."""
        return frozenset(self._running)

    @asynccontextmanager
    async def take(self, request: StepRequest, asker: Asker) -> AsyncGenerator[SharedStep, None]:
        """Takes a step of an implicit session, once it has begun. Leaving the context early cancels it.

        Raises Refused, StoreAwayError, as iterating the events does. MODEL_REVISION_MISMATCH: the log is of another
        revision than the pool's, and does not migrate.
        """
        with self._counted(request.session_id):
            step = self._gateway.step(request, asker.caller, asker.seconds_left, is_implicit=True)
            async with step as events:
                began = await events.began()
                _check_revision(asker.pool, began)
                async with aclosing(self._follow(request, asker, events)) as followed:
                    yield SharedStep(began, followed)

    @contextmanager
    def _counted(self, session_id: str) -> Iterator[None]:
        self._running[session_id] += 1
        try:
            yield
        finally:
            self._running[session_id] -= 1
            if not self._running[session_id]:
                del self._running[session_id]

    async def _follow(
        self, request: StepRequest, asker: Asker, events: AsyncIterator[Event]
    ) -> AsyncGenerator[Event, None]:
        """The events of the step. When another client's attempt takes this one over, the rest is that attempt's."""
        received = request.received
        try:
            async for event in events:
                if isinstance(event, Delta):
                    received = cursor_after(event)
                yield event
            return
        except Refused as error:
            if error.reason is not Reason.ATTEMPT_FENCED:
                raise
        await self._settled(request, asker)
        rest = replace(request, received=received)
        async with (
            self._gateway.step(rest, asker.caller, asker.seconds_left, is_implicit=True) as more,
            aclosing(self._follow(rest, asker, more)) as followed,
        ):
            async for event in followed:
                yield event

    async def _settled(self, request: StepRequest, asker: Asker) -> None:
        """Waits while another client has the step, or until that may have died: for two leases."""
        wait, give_up = _FIRST_LOOK_SECONDS, time.monotonic() + 2 * LEASE_TTL_SECONDS
        while time.monotonic() < give_up:
            session = await self._gateway.get(request.session_id, asker.caller)
            if session.running_step_id != request.step_id:
                return
            await asyncio.sleep(wait)
            wait = min(_LONGEST_LOOK_SECONDS, 2 * wait)


def cursor_after(delta: Delta) -> Cursor:
    """What a client has that has received everything up to the end of a delta."""
    return Cursor(
        attempt=delta.attempt,
        tokens=delta.token_offset + len(delta.token_ids),
        text_bytes=delta.text_offset + len(delta.text.encode()),
        parts=delta.part_offset + sum(map(units, delta.parts)),
    )


def _check_revision(pool: PoolDocument, began: Began | AlreadyCommitted) -> None:
    """Raises Refused: MODEL_REVISION_MISMATCH for a new step in a log that the pool does not migrate. Its own workers
    will be gone before a client that knows no sessions opens another."""
    if isinstance(began, AlreadyCommitted) or began.fenced is not None or pool.migrates:
        return
    if pool.active_revision and began.descriptor.bound_revision not in ("", pool.active_revision):
        raise Refused(Reason.MODEL_REVISION_MISMATCH, "the log is of another revision of the model")
