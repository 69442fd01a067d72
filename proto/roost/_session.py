"""A session's handle."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from roost import wire, wire_steps
from roost._messages import SamplingOptions, as_labels, as_messages
from roost._result import StepResult
from roost._step import Step
from roost._transport import Transport
from roost.contract.budgets import BudgetExtension, BudgetScope
from roost.contract.events import Committed, Migrated
from roost.contract.heads import Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.messages import Format, Message, Sampling
from roost.contract.sessions import LoggedStep, SessionInfo
from roost.contract.steps import Deltas, StepRequest
from roost.errors import SessionNotFoundError
from roost.v1 import session_service_pb2 as pb
from roost.wire_budgets import extension_to_wire

STEP_DEADLINE = 600.0
"""Default deadline of a step in seconds, so that every wait ends."""

STRAGGLER_SECONDS = LEASE_TTL_SECONDS + 1.0
"""How long a step that was left early may block the session's next call: after this time its lease has run out, even if
its gateway does not know that the client has left."""


def new_key() -> str:
    """A fresh idempotency key."""
    return secrets.token_hex(16)


class Session:
    """A session, as `Client.open` and `Client.session` return it.

        result = await session.run("What does this repository do?")
        await session.hold(tool="pytest", expect_seconds=20)
        async for event in session.step([tool_result(call, output)]):
            ...

    It remembers the head, which is the end of the log as this client knows it, and sends it with each step and hold.
    Another client's step is then noticed (`HeadMismatchError`), and so is a store that lost steps
    (`SessionRolledBackError`).

    One task at a time may use a handle. After a step that was left early or lost, the next call waits up to 6 seconds
    until that step has ended.
    """

    def __init__(self, transport: Transport, session_id: str, head: Head | None = None) -> None:
        self._transport = transport
        self._straggler_seconds = 0.0
        self.id = session_id
        self.head = head
        """End of the log as this client knows it; None until the first call. To accept what other clients did, assign
        the current one: `session.head = (await session.info()).head`."""

    def __repr__(self) -> str:
        return f"<Session {self.id}>"

    def step(
        self,
        messages: str | Message | Sequence[Message],
        *,
        step_id: str | None = None,
        sampling: Sampling | None = None,
        format: Format | None = None,  # noqa: A002  the word of the contract
        deltas: Deltas = Deltas.INTERVAL,
        deadline: float | None = STEP_DEADLINE,
        **options: Unpack[SamplingOptions],
    ) -> Step:
        """Takes a step: sends new messages and generates one. Returns an async iterator of events.

        A string is one user message. Messages may begin with history that the session does not have, assistant messages
        with their calls included; the last one is the user's, a tool's or the system's. `options` are fields of
        `Sampling` and override those of `sampling`. A step is idempotent by `step_id`, which is drawn at random when
        None; choose it yourself to get the step's result after your own program has crashed. A step survives the death
        of gateways and workers. `deltas` says how often output comes: the fewer deltas, the less work they make for
        the gateway. `deadline` bounds all of it, in seconds; None means no deadline.

        Raises TypeError or ValueError for what cannot be sent. Iterating raises RoostError; see `roost.errors`.
        """
        request = StepRequest(
            session_id=self.id,
            step_id=step_id or new_key(),
            messages=as_messages(messages),
            sampling=replace(sampling or Sampling(), **options),
            format=format,
            expected_head=self.head,
            deltas=Deltas(deltas),
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
        """Takes a step as `step` does, and returns all of it. Raises RoostError."""
        sampling = replace(sampling or Sampling(), **options)
        # Log-probabilities are not stored: those that have not come before the commit are lost with the gateway.
        deltas = Deltas.NONE if sampling.logprobs is None else Deltas.INTERVAL
        step = self.step(messages, step_id=step_id, sampling=sampling, format=format, deltas=deltas, deadline=deadline)
        return await step.result()

    def _moved(self, event: Committed | Migrated) -> None:
        """Moves the head, but not back to a replayed step, which may lie before it or in an older log."""
        replayed = isinstance(event, Committed) and event.replayed
        if self.head is None or not replayed or _place(event.head) > _place(self.head):
            self.head = event.head

    async def info(self) -> SessionInfo:
        """Returns the session's record. Raises SessionNotFoundError."""
        response = await self._transport.call(lambda stub: stub.GetSession, pb.GetSessionRequest(session_id=self.id))
        return self._record(response.session)

    async def fork(
        self,
        at: Head | None = None,
        *,
        task: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> "Session":
        """Branches a new session off this one, and returns its handle.

        The new session has this one's system text, tools, role and model, and its log up to `at`: a head that this
        session has or had, such as that of one of `steps`, or `Head()` for an empty log. None is its head in the store.
        The two share that part and its KV cache, and nothing after; each may be closed and deleted without the other.
        This session may be closed, and may be running a step, which the new one does not get.

        `task` is this session's when empty; `labels` are the new session's own. `request_id` makes the call idempotent;
        by default it is drawn at random. Where a session was branched off is in `(await session.info()).forked_from`.

        Raises SessionRolledBackError when no step of the log ends at `at`, SessionNotFoundError and other RoostErrors,
        and TypeError when a label is not a string.
        """
        request = pb.ForkSessionRequest(
            session_id=self.id,
            at=None if at is None else wire.head_to_wire(at),
            task=task,
            labels=as_labels(labels),
            request_id=request_id or new_key(),
        )
        fork = (await self._transport.call(lambda stub: stub.ForkSession, request)).session
        return Session(self._transport, fork.id, wire.head_from_wire(fork.head))

    async def fold(
        self, summary: str = "", *, keep_turns: int = 2, request_id: str | None = None, deadline: float = STEP_DEADLINE
    ) -> SessionInfo:
        """Puts `summary` in place of the first steps of the log; the pool's model writes one when it is empty.

        System text, tools and the first step's messages up to the first user's stay verbatim, and so do the last
        `keep_turns` turns: steps that begin with a user's message, with those that follow with tools' results. The new
        log begins as the old one did, so that its KV cache is kept that far. The old log stays readable with
        `steps(generation=…)`. `request_id` makes the call idempotent; by default it is drawn at random. `deadline` is
        in seconds.

        Raises InvalidRequestError when nothing would be folded, HeadMismatchError, AnotherStepRunningError, and other
        RoostErrors, also those of the step that writes the summary.
        """
        request = pb.FoldSessionRequest(
            session_id=self.id,
            summary=summary,
            keep_turns=keep_turns,
            expected_head=None if self.head is None else wire.head_to_wire(self.head),
            request_id=request_id or new_key(),
        )
        response = await self._transport.call(
            lambda stub: stub.FoldSession, request, self._straggler_seconds, timeout=deadline
        )
        info = wire.session_from_wire(response.session)
        self.head = info.head
        return info

    async def hold(self, *, tool: str = "", expect_seconds: float = 0.0) -> SessionInfo:
        """Announces a pause, such as a tool's run, so that the KV cache can be kept; 0 seconds means unknown.

        Raises SessionClosedError, HeadMismatchError, AnotherStepRunningError and other RoostErrors.
        """
        request = pb.HoldSessionRequest(
            session_id=self.id,
            tool=tool,
            expect_seconds=expect_seconds,
            expected_head=None if self.head is None else wire.head_to_wire(self.head),
        )
        response = await self._transport.call(lambda stub: stub.HoldSession, request, self._straggler_seconds)
        return self._record(response.session)

    async def evict(self) -> int:
        """Drops the session's KV cache on all workers; the next step rebuilds it. Returns the number of tokens dropped.

        Raises AnotherStepRunningError and other RoostErrors.
        """
        request = pb.EvictSessionRequest(session_id=self.id)
        response = await self._transport.call(lambda stub: stub.EvictSession, request, self._straggler_seconds)
        return response.evicted_tokens

    async def extend_budget(
        self,
        *,
        tokens: int = 0,
        gpu_seconds: float = 0.0,
        steps: int = 0,
        wall_seconds: float = 0.0,
        scope: BudgetScope = BudgetScope.SESSION,
        request_id: str | None = None,
    ) -> SessionInfo:
        """Raises the limits of the session's budget, or with `BudgetScope.TASK` of its task's, so that a paused session
        (`BudgetPausedError`) goes on. Needs an API key with the right `extendBudgets`.

        `tokens` are uncached ones. `request_id` makes the call idempotent; by default it is drawn at random.

        Raises RightMissingError; InvalidRequestError for what the role does not limit, or does not let anyone extend;
        SessionNotFoundError and other RoostErrors.
        """
        extension = BudgetExtension(
            self.id, scope, tokens, gpu_seconds, steps, wall_seconds, new_key() if request_id is None else request_id
        )
        response = await self._transport.call(lambda stub: stub.ExtendBudget, extension_to_wire(extension))
        return self._record(response.session)

    async def close(self) -> SessionInfo:
        """Ends the session: it takes no more steps, but its log stays readable. Closing it again changes nothing.

        Raises AnotherStepRunningError and other RoostErrors.
        """
        request = pb.CloseSessionRequest(session_id=self.id)
        response = await self._transport.call(lambda stub: stub.CloseSession, request, self._straggler_seconds)
        return self._record(response.session)

    async def delete(self) -> None:
        """Erases the session and its log.

        Raises SessionNotFoundError when it does not exist, AnotherStepRunningError and other RoostErrors.
        """
        request = pb.DeleteSessionRequest(session_id=self.id)
        try:
            await self._transport.call(lambda stub: stub.DeleteSession, request, self._straggler_seconds)
        except SessionNotFoundError as error:
            if error.tries == 1:  # otherwise an earlier try has erased it, and only the answer was lost
                raise

    async def steps(
        self, *, generation: int = 0, include_token_ids: bool = False, page_size: int = 0, first_index: int = 0
    ) -> AsyncIterator[LoggedStep]:
        """Iterates over the log from the step `first_index` on, oldest step first; generation 0 is the current log.

        It is read in pages of `page_size` steps (1 to 100; 0 leaves it to the gateway) as they are needed. Raises
        SessionNotFoundError and other RoostErrors.
        """
        request = pb.ListStepsRequest(
            session_id=self.id,
            generation=generation,
            page_size=page_size,
            include_token_ids=include_token_ids,
            first_index=first_index,
        )
        while True:
            page = await self._transport.call(lambda stub: stub.ListSteps, request)
            for step in page.steps:
                yield wire_steps.logged_step_from_wire(step)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _record(self, session: pb.Session) -> SessionInfo:
        info = wire.session_from_wire(session)
        if self.head is None:
            self.head = info.head
        return info


def _place(head: Head) -> tuple[int, int]:
    """Sorts heads: every head of a newer log comes after those of older logs."""
    return head.generation, head.length
