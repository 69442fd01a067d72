"""Steps of conversations that their clients send whole: each is recognised, and runs in a session."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from roost.contract import requests
from roost.contract.events import Committed, Event
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.contract.sessions import ForkRequest, OpenRequest
from roost.contract.steps import Cursor, StepName
from roost.store.conversation_index import ConversationIndex, EntryState, IndexEntry, IndexWrite
from roost.store.detached import DetachedSteps
from roost.store.records import AlreadyCommitted, Began, StoreAwayError
from roost_gateway.core.begun_step import BegunStep
from roost_gateway.core.caller import Caller, pool_of_session, role_of
from roost_gateway.core.gateway import Gateway
from roost_gateway.core.kept_conversations import KeptConversations
from roost_gateway.core.models import ServedModel, pool_of_model, served_models
from roost_gateway.core.previous_responses import PreviousResponses
from roost_gateway.core.shared_steps import Asker, SharedStep, SharedSteps
from roost_gateway.core.unused_forks import UnusedForks
from roost_gateway.fleet.pools import Pools
from roost_gateway.recognition.canonical import cleaned
from roost_gateway.recognition.conversation import Conversation, Match, Recognised
from roost_gateway.recognition.decision import Asked, Plan, decide, looked_up
from roost_gateway.recognition.turn import REPEAT_MS, Turn, turn
from roost_gateway.step.background import Background

log = logging.getLogger(__name__)

_FINISH_SECONDS = 1.0
_ELSEWHERE = {
    Reason.HEAD_MISMATCH: "the session has gone on after message {}",
    Reason.ANOTHER_STEP_RUNNING: "another step of the session runs after message {}",
    Reason.STEP_ID_REUSED: "the step was taken in another form after message {}",
    Reason.SESSION_ROLLED_BACK: "the store has lost the session's log up to message {}",
    Reason.SESSION_NOT_FOUND: "the session of the history up to message {} has ended",
    Reason.SESSION_CLOSED: "the session of the history up to message {} is closed",
    Reason.MODEL_REVISION_MISMATCH: "the session of the history up to message {} is of another revision of the model",
}
"""Refusals of a step whose conversation goes on in another session."""


@dataclass(frozen=True, slots=True)
class ConversationStep:
    """A step that has begun."""

    begun: BegunStep
    events: AsyncIterator[Event]
    """As `Gateway.step` yields them. Iterating raises Refused, StoreAwayError."""
    is_committed: bool
    """Whether it had been committed before."""

    @property
    def recognised(self) -> Recognised:
        return self.begun.recognised


class RunsDetachedError(Exception):
    """The step that a conversation asks for runs detached already, or did and is committed."""

    def __init__(self, recognised: Recognised) -> None:
        super().__init__(f"step {recognised.step_id} of {recognised.session_id} is detached")
        self.recognised = recognised


@dataclass(frozen=True, slots=True)
class _Call:
    """A conversation's step on its way to a session."""

    turn: Turn
    asker: Asker
    is_detached: bool = False

    @property
    def caller(self) -> Caller:
        return self.asker.caller

    @property
    def pool(self) -> PoolDocument:
        return self.asker.pool


@dataclass(frozen=True, slots=True)
class _Running:
    """A step that has begun."""

    call: _Call
    begun: BegunStep
    step: SharedStep


class Conversations:
    """Recognises conversations. Every method raises Refused or StoreAwayError, as `Gateway` does.

    The index of conversations is an aid: without its answers a conversation is served as a new session.
    """

    def __init__(
        self,
        gateway: Gateway,
        pools: Pools,
        index: ConversationIndex,
        kept: KeptConversations,
        detached: DetachedSteps,
        step_timeout_seconds: float,
    ) -> None:
        self.kept = kept
        self._gateway = gateway
        self._pools = pools
        self._index = index
        self._detached = detached
        self._previous = PreviousResponses(gateway, detached)
        self._step_timeout_seconds = step_timeout_seconds
        self._background = Background()
        self._steps = SharedSteps(gateway)
        self._forks = UnusedForks(gateway)

    async def models(self, caller: Caller) -> list[ServedModel]:
        """The models that the caller may name."""
        return served_models(self._pools, caller)

    @asynccontextmanager
    async def step(
        self,
        conversation: Conversation,
        caller: Caller,
        seconds_left: float | None = None,
        *,
        is_detached: bool = False,
    ) -> AsyncGenerator[ConversationStep, None]:
        """Takes the step that a conversation asks for, in the session that has its history. Leaving the context early
        cancels the step, unless it is being committed.

        `seconds_left` is what the client's deadline leaves; None: the gateway's own `step_timeout_seconds`.
        `is_detached`: whether the step is to run without its client. Raises RunsDetachedError when it does already.
        """
        call = await self._call(conversation, caller, seconds_left, is_detached=is_detached)
        _check(call)
        call, plan = await self._recognise(call)
        async with AsyncExitStack() as stack:
            yield await self._followed(stack, await self._begin(stack, call, plan))

    @asynccontextmanager
    async def resume(
        self, begun: BegunStep, caller: Caller, received: Cursor | None
    ) -> AsyncGenerator[ConversationStep, None]:
        """Takes a step again whose gateway may have died. `received` is the output that is known of it. Leaving the
        context early cancels the step, unless it is being committed."""
        pool = await self._pools.get(pool_of_session(begun.start.session_id, caller))
        call = _Call(begun.turn, Asker(caller, pool, deadline=None), is_detached=True)
        async with AsyncExitStack() as stack:
            request = replace(begun.request, received=received)
            step = await stack.enter_async_context(self._steps.take(request, call.asker))
            yield await self._followed(stack, _Running(call, begun, step))

    async def step_id(self, conversation: Conversation, caller: Caller) -> str:
        """The id of the step that a conversation asks for; equal requests ask for the same."""
        return (await self._call(conversation, caller, None)).turn.step_id

    async def _call(
        self, conversation: Conversation, caller: Caller, seconds_left: float | None, *, is_detached: bool = False
    ) -> _Call:
        deadline = None if seconds_left is None else time.monotonic() + seconds_left
        pool = await pool_of_model(self._pools, conversation.model, caller)
        asked = await self._previous.with_system(cleaned(_within(conversation, pool), pool.nonce_lines), caller)
        return _Call(turn(asked, caller.tenant, pool.pool), Asker(caller, pool, deadline), is_detached)

    async def aclose(self) -> None:
        """Waits for what is still to be remembered, and for forks that are being deleted."""
        await self._forks.aclose()
        await self._background.finish(_FINISH_SECONDS)

    async def _recognise(self, call: _Call) -> tuple[_Call, Plan]:
        asked, previous = call.turn, call.turn.conversation.previous
        if previous is None:
            keys = looked_up(asked.chain, asked.request)
            repeats, *known = await self._find(call, keys)
            answers = dict(zip(keys[1:], known, strict=True))
            return call, decide(asked.chain, answers, repeats, self._asked(asked))
        repeats, ends = await self._find(call, [asked.request, asked.response_key(previous)])
        if not ends:
            return await self._recognise(await self._with_history(call, previous))
        call = replace(call, turn=asked.after(ends[0]))
        return call, decide(call.turn.chain, {ends[0].own: ends}, repeats, self._asked(asked))

    def _asked(self, asked: Turn) -> Asked:
        is_named = bool(asked.conversation.family) or asked.conversation.previous is not None
        return Asked(is_named, asked.conversation.is_retry, self._steps.sessions)

    async def _find(self, call: _Call, keys: Sequence[bytes]) -> list[tuple[IndexEntry, ...]]:
        try:
            return await self._index.find(call.pool.pool, keys)
        except StoreAwayError as error:
            log.warning("a conversation is not looked up: %s", error)
            return [()] * len(keys)

    async def _with_history(self, call: _Call, previous: StepName) -> _Call:
        """The call with the history of its previous response. Raises Refused: SESSION_NOT_FOUND, INVALID_REQUEST."""
        asked = call.turn.conversation
        history = await self._previous.history(previous, call.caller)
        whole = replace(asked, messages=(*history, *asked.messages), previous=None)
        whole = cleaned(whole, call.pool.nonce_lines)
        return replace(call, turn=turn(whole, call.caller.tenant, call.pool.pool))

    async def _begin(self, stack: AsyncExitStack, call: _Call, plan: Plan) -> _Running:
        """Begins the step in the first session of the plan that takes it."""
        reason = plan.reason
        for entry in plan.candidates:
            try:
                return await self._continue(stack, call, entry)
            except Refused as error:
                if error.reason not in _ELSEWHERE:
                    raise
                reason = _ELSEWHERE[error.reason].format(call.turn.chain.messages_of(entry.units))
        for entry in plan.forks:
            try:
                return await self._fork(stack, call, entry, reason)
            except Refused as error:
                if error.reason not in _ELSEWHERE:
                    raise
                if error.reason is Reason.MODEL_REVISION_MISMATCH:  # as all forks of that history are
                    break
        return await self._open(stack, call, reason)

    async def _continue(self, stack: AsyncExitStack, call: _Call, start: IndexEntry) -> _Running:
        if call.is_detached:
            await self._check_not_detached(call, start)
        step = await self._take(stack, call, start)
        attached = isinstance(step.began, AlreadyCommitted) or step.began.fenced is not None
        match = Match.ATTACHED if attached else Match.CONTINUED
        return _running(call, start, step, match)

    async def _check_not_detached(self, call: _Call, start: IndexEntry) -> None:
        """Raises RunsDetachedError while the step runs detached, since to ask for it again would fence its run. Whether
        a committed step is still there, its session says."""
        progress = await self._detached.read(StepName(start.session_id, call.turn.step_id), call.caller.tenant)
        if progress is not None and not progress.state.is_over:
            raise RunsDetachedError(Recognised(start.session_id, call.turn.step_id, Match.ATTACHED, start.head.length))

    async def _fork(self, stack: AsyncExitStack, call: _Call, point: IndexEntry, reason: str) -> _Running:
        request = ForkRequest(point.session_id, point.head, task=call.turn.conversation.family)
        session = await self._gateway.fork(request, call.caller, call.asker.seconds_left)
        if not call.is_detached:  # how that has ended is kept with its session, for a client that comes back
            stack.enter_context(self._forks.until_used(session, call.caller))
        start = replace(point, session_id=session.id, head=session.head, state=EntryState.HEAD)
        return await self._begin_in_new(stack, call, start, Match.FORKED, reason)

    async def _open(self, stack: AsyncExitStack, call: _Call, reason: str) -> _Running:
        """Gives the whole conversation to a new session. Until its step is committed it lives no longer than the step
        is remembered, so that attempts that fail leave nothing behind; that of a detached step, whose client may come
        back late, as long as other sessions."""
        asked = call.turn.conversation
        if asked.previous is not None:
            whole, plan = await self._recognise(await self._with_history(call, asked.previous))
            return await self._begin(stack, whole, plan)
        request = OpenRequest(
            pool=call.pool.pool, role=asked.role, system=asked.system, tools=asked.tools, task=asked.family
        )
        ttl_ms = call.pool.implicit_ttl_ms if call.is_detached else min(REPEAT_MS, call.pool.implicit_ttl_ms)
        session = await self._gateway.open(request, call.caller, call.asker.seconds_left, ttl_ms)
        start = call.turn.opened(session.id)
        match = Match.IMPORTED if call.turn.chain.has_turns else Match.NEW
        return await self._begin_in_new(stack, call, start, match, reason if match is Match.IMPORTED else "")

    async def _begin_in_new(
        self, stack: AsyncExitStack, call: _Call, start: IndexEntry, match: Match, reason: str
    ) -> _Running:
        limit = self._step_timeout_seconds if call.asker.seconds_left is None else call.asker.seconds_left
        self._background.spawn(self._remember(call, call.turn.began(start, int(limit * 1000) + REPEAT_MS)))
        step = await self._take(stack, call, start)
        return _running(call, start, step, match, reason)

    async def _take(self, stack: AsyncExitStack, call: _Call, start: IndexEntry) -> SharedStep:
        request = call.turn.step(start.session_id, start.head, start.units)
        return await stack.enter_async_context(self._steps.take(request, call.asker))

    async def _followed(self, stack: AsyncExitStack, running: _Running) -> ConversationStep:
        events = await stack.enter_async_context(aclosing(self._events(running)))
        return ConversationStep(running.begun, events, isinstance(running.step.began, AlreadyCommitted))

    async def _events(self, running: _Running) -> AsyncGenerator[Event, None]:
        async for event in running.step.events:
            if isinstance(event, Committed):
                await self._committed(running, event)
            yield event

    async def _committed(self, running: _Running, event: Committed) -> None:
        """Remembers the step before its client, whose next request may come at once, has it."""
        call, start = running.call, running.begun.start
        self._forks.used(start.session_id)
        writes = call.turn.committed(start, event.head, event.output, call.pool.implicit_ttl_ms)
        if running.begun.recognised.match in (Match.CONTINUED, Match.ATTACHED):
            writes += call.turn.passed(start, call.pool.implicit_ttl_ms)
        if event.output.tool_calls and not event.replayed:
            self._background.spawn(self._hold(call, start.session_id, event))
        await self._remember(call, writes)
        if (kept := call.turn.conversation.kept) is not None:
            ttl_ms = call.pool.implicit_ttl_ms
            await self.kept.advance(kept, start.session_id, call.turn.step_id, call.caller, ttl_ms)

    async def _remember(self, call: _Call, writes: Sequence[IndexWrite]) -> None:
        try:
            await self._index.remember(call.pool.pool, writes)
        except (StoreAwayError, Refused) as error:
            log.warning("a conversation will not be recognised: %s", error)

    async def _hold(self, call: _Call, session_id: str, event: Committed) -> None:
        """Announces that the session waits for the tools that the step has called."""
        try:
            await self._gateway.hold(session_id, event.output.tool_calls[0].name, 0.0, event.head, call.caller)
        except Refused as error:  # the client was faster
            log.debug("session %s is not held: %s", session_id, error)


def _within(conversation: Conversation, pool: PoolDocument) -> Conversation:
    """The conversation with `max_tokens` within what its role allows: clients of such APIs send the limit of the model
    that they were configured for, and mean no more than their role's."""
    sampling, limit = conversation.sampling, role_of(pool, conversation.role).max_output_tokens or pool.token_limit
    if not limit or sampling.max_tokens is None or sampling.max_tokens <= limit:
        return conversation
    return replace(conversation, sampling=replace(sampling, max_tokens=limit))


def _check(call: _Call) -> None:
    """Refuses what no session could take, before a session is opened for it."""
    role, step = role_of(call.pool, call.turn.conversation.role), call.turn.step("", None, 0)
    check(requests.step(step))
    check(requests.schema_of_step(step), Reason.INVALID_SCHEMA)
    check(requests.step_of_role(step, role))


def _running(call: _Call, start: IndexEntry, step: SharedStep, match: Match, reason: str = "") -> _Running:
    began = step.began
    log_tokens, budgets = (
        (began.descriptor.head.length, began.budgets) if isinstance(began, Began) else (began.entry.start, ())
    )
    recognised = Recognised(start.session_id, call.turn.step_id, match, log_tokens, reason, budgets)
    return _Running(call, BegunStep(call.turn, start, recognised), step)
