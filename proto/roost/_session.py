"""A handle on one session."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Unpack

from roost import wire, wire_steps
from roost._messages import SamplingOptions, as_messages
from roost._result import StepResult
from roost._step import Step
from roost._transport import Transport
from roost.contract.events import Committed, Migrated
from roost.contract.heads import Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.messages import Format, Message, Sampling
from roost.contract.sessions import LoggedStep, SessionInfo
from roost.contract.steps import StepRequest
from roost.errors import SessionNotFoundError
from roost.v1 import session_service_pb2 as pb

STEP_DEADLINE = 600.0
"""Seconds that a step may take unless told otherwise; every wait ends."""

STRAGGLER_SECONDS = LEASE_TTL_SECONDS + 1.0
"""How long a step that was left may be in the way of what comes next: a gateway that has not heard of it keeps its
lease no longer."""


def new_key() -> str:
    """A fresh idempotency key."""
    return secrets.token_hex(16)


class Session:
    """One session, as `Client.open` or `Client.session` gives it.

    It remembers the head, the end of the log that this client has seen, and sends it with each step and hold, so
    that a store that lost something is noticed (`SessionRolledBackError`) and so is another client's step
    (`HeadMismatchError`). A handle may be used by one task at a time. When it left a step early, or lost it, what
    comes next waits up to 6 seconds until that step is out of the way.
    """

    def __init__(self, transport: Transport, session_id: str, head: Head | None = None) -> None:
        self._transport = transport
        self._straggler_seconds = 0.0
        self.id = session_id
        self.head = head
        """End of the log that this client has seen; None until it has seen any. Assign another one, such as
        `(await session.info()).head`, to accept what happened behind this handle's back."""

    def __repr__(self) -> str:
        return f"<Session {self.id}>"

    def step(
        self,
        messages: str | Message | Sequence[Message],
        *,
        step_id: str | None = None,
        sampling: Sampling | None = None,
        format: Format | None = None,  # noqa: A002  the word of the contract
        deadline: float | None = STEP_DEADLINE,
        **options: Unpack[SamplingOptions],
    ) -> Step:
        """A step: new messages in, one generated message out, as an async iterator of events.

        A string is one user message. `options` are fields of `Sampling` and replace those of `sampling`. A step is
        idempotent by `step_id`, drawn at random when None: give one of your own to find the step's result again
        after a crash of your own. It survives gateways and workers that die; `deadline` (seconds, None for none)
        bounds all of it.

        Iterating raises RoostError; see `roost.errors`.
        """
        request = StepRequest(
            session_id=self.id,
            step_id=step_id or new_key(),
            messages=as_messages(messages),
            sampling=replace(sampling or Sampling(), **options),
            format=format,
            expected_head=self.head,
        )
        return Step(
            self._transport,
            request,
            deadline,
            self._moved,
            on_end=self._ended,
            straggler_seconds=self._straggler_seconds,
        )

    def _ended(self, *, left: bool) -> None:
        self._straggler_seconds = STRAGGLER_SECONDS if left else 0.0

    async def run(
        self,
        messages: str | Message | Sequence[Message],
        *,
        step_id: str | None = None,
        sampling: Sampling | None = None,
        format: Format | None = None,  # noqa: A002
        deadline: float | None = STEP_DEADLINE,
        **options: Unpack[SamplingOptions],
    ) -> StepResult:
        """The same as `step`, collected. Raises RoostError."""
        step = self.step(messages, step_id=step_id, sampling=sampling, format=format, deadline=deadline, **options)
        return await step.result()

    def _moved(self, event: Committed | Migrated) -> None:
        """A replayed step may lie before the head that this client has seen, or in an older log."""
        replayed = isinstance(event, Committed) and event.replayed
        if self.head is None or not replayed or _place(event.head) > _place(self.head):
            self.head = event.head

    async def info(self) -> SessionInfo:
        """The session's record. Raises SessionNotFoundError."""
        response = await self._transport.call(lambda stub: stub.GetSession, pb.GetSessionRequest(session_id=self.id))
        return self._seen(response.session)

    async def hold(self, *, tool: str = "", expect_seconds: float = 0.0) -> SessionInfo:
        """Says why the client pauses, so that the KV cache can be kept for its return; 0 seconds means unknown.

        Raises SessionClosedError, HeadMismatchError, AnotherStepRunningError and others of RoostError.
        """
        request = pb.HoldSessionRequest(
            session_id=self.id,
            tool=tool,
            expect_seconds=expect_seconds,
            expected_head=None if self.head is None else wire.head_to_wire(self.head),
        )
        response = await self._transport.call(lambda stub: stub.HoldSession, request, self._straggler_seconds)
        return self._seen(response.session)

    async def evict(self) -> int:
        """Drops the session's KV cache everywhere; the next step rebuilds it. Returns the tokens dropped.

        Raises AnotherStepRunningError and others of RoostError.
        """
        request = pb.EvictSessionRequest(session_id=self.id)
        response = await self._transport.call(lambda stub: stub.EvictSession, request, self._straggler_seconds)
        return response.evicted_tokens

    async def close(self) -> SessionInfo:
        """Ends the session: no more steps, the log stays readable. Closing twice changes nothing.

        Raises AnotherStepRunningError and others of RoostError.
        """
        request = pb.CloseSessionRequest(session_id=self.id)
        response = await self._transport.call(lambda stub: stub.CloseSession, request, self._straggler_seconds)
        return self._seen(response.session)

    async def delete(self) -> None:
        """Erases the session and its log.

        Raises SessionNotFoundError when there was none, AnotherStepRunningError and others of RoostError.
        """
        request = pb.DeleteSessionRequest(session_id=self.id)
        try:
            await self._transport.call(lambda stub: stub.DeleteSession, request, self._straggler_seconds)
        except SessionNotFoundError as error:
            if error.tries == 1:  # else the first try did it, and only its answer was lost
                raise

    async def steps(
        self, *, generation: int = 0, include_token_ids: bool = False, page_size: int = 0
    ) -> AsyncIterator[LoggedStep]:
        """The log, oldest step first; generation 0 is the current one. Pages of `page_size` steps (1 to 100; 0 is the
        gateway's choice) are read as they are needed. Raises SessionNotFoundError and others of RoostError."""
        request = pb.ListStepsRequest(
            session_id=self.id, generation=generation, page_size=page_size, include_token_ids=include_token_ids
        )
        while True:
            page = await self._transport.call(lambda stub: stub.ListSteps, request)
            for step in page.steps:
                yield wire_steps.logged_step_from_wire(step)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _seen(self, session: pb.Session) -> SessionInfo:
        info = wire.session_from_wire(session)
        if self.head is None:
            self.head = info.head
        return info


def _place(head: Head) -> tuple[int, int]:
    """Order of heads: a log that began later comes after all of the one before."""
    return head.generation, head.length
