"""What a gateway does, whatever transport a call comes by: from and to the contract's values."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from roost.contract import requests
from roost.contract.budgets import BudgetExtension, OnBudget
from roost.contract.heads import Head
from roost.contract.loghash import unpack_ids
from roost.contract.names import new_session_id, pool_of
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check, invalid
from roost.contract.sessions import (
    FoldRequest,
    ForkRequest,
    LoggedStep,
    OpenRequest,
    SessionInfo,
    SessionPage,
    SessionQuery,
    StepPage,
)
from roost.contract.steps import StepRequest
from roost.store.budget_requests import checked_extension
from roost.store.folding import fold_step
from roost.store.forks import fork_session
from roost.store.generations import index_now
from roost.store.interface import SessionStore
from roost.store.records import Descriptor, LogEntry, NewSession
from roost.store.rules import day_of
from roost.store.views import logged_step, session_info
from roost_gateway.core.caller import Caller, Right, pool_of_caller, pool_of_session, role_of
from roost_gateway.core.facts import FactsCache
from roost_gateway.core.opening import Opening
from roost_gateway.core.step_calls import StepCalls, StepEvents
from roost_gateway.core.summaries import write_summary
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.fleet.pools import require_open
from roost_gateway.moving.pauses import Pauses
from roost_gateway.step.call import Fold, StepCall

_DEFAULT_SESSIONS, _DEFAULT_STEPS = 100, 20
"""Entries of a page whose size the client leaves to the gateway."""
_MAX_SCANNED_PAGES = 20


class Gateway:
    """Sessions and their steps. Every method raises Refused or StoreAwayError.

    A session whose pool the caller may not use, or of another tenant, is refused as SESSION_NOT_FOUND, as if it did
    not exist.
    """

    def __init__(
        self,
        store: SessionStore,
        fleet: Fleet,
        facts: FactsCache,
        calls: StepCalls,
        pauses: Pauses,
        step_timeout_seconds: float,
    ) -> None:
        self._store = store
        self._opening = Opening(store, fleet)
        self._pools = fleet.pools
        self._workers = fleet.workers
        self._clients = fleet.clients
        self._facts = facts
        self._calls = calls
        self._pauses = pauses
        self._step_timeout_seconds = step_timeout_seconds

    async def open(
        self, request: OpenRequest, caller: Caller, seconds_left: float | None, ttl_ms: int | None = None
    ) -> SessionInfo:
        """`seconds_left`: until the caller gives up; None without a deadline. `ttl_ms`: how long the session lives
        without a step; None: as long as the pool's sessions do."""
        check(requests.open_session(request))
        check(requests.schemas_of_tools(request.tools), Reason.INVALID_SCHEMA)
        pool = await pool_of_caller(self._pools, request.pool, caller)
        require_open(pool)
        role = role_of(pool, request.role)
        parent_task = await self._task_of_parent(request.parent, caller)
        new = NewSession(
            session_id=new_session_id(pool.pool),
            tenant=caller.tenant,
            role=role.name,
            model=pool.model,
            model_revision=pool.active_revision,
            system=request.system,
            date=day_of(time.time_ns() // 1_000_000),
            task=request.task or parent_task,
            parent=request.parent,
            labels=dict(request.labels),
            request_id=request.request_id,
            ttl_ms=pool.idle_ttl_ms if ttl_ms is None else ttl_ms,
        )
        descriptor = await self._opening.open(new, request.tools, pool, seconds_left)
        self._facts.put(descriptor)
        return await self._described(descriptor)

    async def fork(self, request: ForkRequest, caller: Caller, seconds_left: float | None) -> SessionInfo:
        """Branches a session off another one. `seconds_left`: until the caller gives up; None without a deadline."""
        check(requests.fork_session(request))
        require_open(await self._pools.get(pool_of_session(request.session_id, caller)))
        try:
            async with asyncio.timeout(seconds_left):
                descriptor = await fork_session(self._store, request, caller.tenant)
        except TimeoutError:
            raise Refused(Reason.DEADLINE_EXCEEDED, "the place to fork at was not found in time") from None
        self._facts.put(descriptor)
        return await self._described(descriptor)

    async def fold(self, request: FoldRequest, caller: Caller, seconds_left: float | None) -> SessionInfo:
        """Puts a summary in place of the first steps of a session's log, in a new generation. `seconds_left`: until the
        caller gives up; None without a deadline."""
        check(requests.fold_session(request))
        request = replace(request, request_id=request.request_id or secrets.token_hex(16))
        call = await self._checked(fold_step(request), caller, seconds_left)

        async def summarise() -> str:
            return request.summary or await write_summary(self, request.session_id, caller, call.deadline)

        limit = self._step_timeout_seconds if seconds_left is None else None
        async with self._calls.run(call.folding(Fold(summarise, request.keep_turns)), limit) as events:
            async for _ in events:
                pass
        return await self.get(request.session_id, caller)

    def _fold_at_budget(self, call: StepCall, caller: Caller) -> Fold:
        async def summarise() -> str:
            return await write_summary(self, call.request.session_id, caller, call.deadline)

        return Fold(summarise, call.role.budgets.keep_turns, is_for_budget=True)

    async def get(self, session_id: str, caller: Caller) -> SessionInfo:
        pool_of_session(session_id, caller)
        return await self._described(await self._store.get(session_id, caller.tenant))

    async def system_text(self, session_id: str, caller: Caller) -> str:
        pool_of_session(session_id, caller)
        return (await self._store.get(session_id, caller.tenant)).system

    async def list(self, query: SessionQuery, caller: Caller) -> SessionPage:
        """One page, without the sessions' tools. It may be short, and even empty, before the last one when the filters
        pass over many sessions."""
        pool = await pool_of_caller(self._pools, query.pool, caller)
        size = _page_size(query.page_size, _DEFAULT_SESSIONS, requests.MAX_PAGE_SESSIONS)
        if query.page_token and pool_of(query.page_token) != pool.pool:
            raise _foreign_page()
        selected, after = list[SessionInfo](), query.page_token
        for _ in range(_MAX_SCANNED_PAGES):
            batch = await self._store.list_sessions(pool.pool, caller.tenant, after, size)
            for session in await self._describe_all(pool, batch):
                if _selects(query, session):
                    selected.append(replace(session, tools=()))
                    if len(selected) == size:
                        return SessionPage(tuple(selected), session.id)
            if len(batch) < size:
                return SessionPage(tuple(selected))
            after = batch[-1].session_id
        return SessionPage(tuple(selected), after)

    async def list_steps(
        self,
        session_id: str,
        caller: Caller,
        *,
        generation: int = 0,
        page_size: int = 0,
        page_token: str = "",
        first_index: int = 0,
        include_token_ids: bool = False,
    ) -> StepPage:
        """One page of a session's log, from the token or else from the step `first_index`; generation 0 is the current
        one."""
        pool_of_session(session_id, caller)
        size, first = _page_size(page_size, _DEFAULT_STEPS, requests.MAX_PAGE_STEPS), _index(page_token) or first_index
        descriptor = await self._store.get(session_id, caller.tenant)
        generation = generation or descriptor.generation
        if generation > descriptor.generation:
            raise invalid([("generation", f"the session has {descriptor.generation}")])
        entries = await self._store.log(session_id, generation, first, size + 1)
        steps = [
            logged_step(entry, generation, await self._ids(entry, session_id, generation) if include_token_ids else ())
            for entry in entries[:size]
        ]
        return StepPage(tuple(steps), str(first + size) if len(entries) > size else "")

    async def logged_step(self, session_id: str, step_id: str, caller: Caller) -> LoggedStep | None:
        """A step of the session's current log, without reading others; None when it has no such step."""
        pool_of_session(session_id, caller)
        descriptor = await self._store.get(session_id, caller.tenant)
        place = await self._store.step_place(session_id, step_id)
        index = None if place is None else index_now(descriptor.folds, *place)
        entry = None
        if place is None:
            entry = await self._inherited(descriptor, step_id)
        elif index is not None:
            entry = next(iter(await self._store.log(session_id, descriptor.generation, index, 1)), None)
        if entry is None or entry.step_id != step_id:
            return None
        return logged_step(entry, descriptor.generation)

    async def _inherited(self, descriptor: Descriptor, step_id: str) -> LogEntry | None:
        """The step, if the session shares it with the one that it was branched off."""
        for first in range(0, descriptor.inherited_steps, requests.MAX_PAGE_STEPS):
            count = min(requests.MAX_PAGE_STEPS, descriptor.inherited_steps - first)
            for entry in await self._store.log(descriptor.session_id, descriptor.generation, first, count):
                if entry.step_id == step_id:
                    return entry
        return None

    async def hold(
        self, session_id: str, tool: str, expect_seconds: float, expected_head: Head | None, caller: Caller
    ) -> SessionInfo:
        """Records a pause, and reports it to the worker that has the session cached."""
        pool_of_session(session_id, caller)
        check(requests.hold(tool, expect_seconds))
        generation = expected_head.generation if expected_head is not None else 0
        descriptor = await self._store.hold(session_id, caller.tenant, tool, expect_seconds, expected_head, generation)
        self._pauses.begin(descriptor)
        return await self._described(descriptor)

    async def evict(self, session_id: str, caller: Caller) -> tuple[SessionInfo, int]:
        """Drops the session's KV on every worker. Returns the session, and how many tokens were dropped."""
        pool_of_session(session_id, caller)
        descriptor, epoch = await self._store.evict(session_id, caller.tenant)
        dropped, everywhere = await self._evict_everywhere(session_id, epoch)
        if everywhere:  # what workers have published may still show it as cached
            return session_info(descriptor, await self._pool_or_none(descriptor.pool)), dropped
        return await self._described(descriptor), dropped

    async def extend_budget(self, extension: BudgetExtension, caller: Caller) -> SessionInfo:
        """Raises the limits of a session's budget, or of its task's."""
        pool = pool_of_session(extension.session_id, caller)
        caller.require(Right.EXTEND_BUDGETS)
        check(requests.extend_budget(extension))
        descriptor = await self._store.get(extension.session_id, caller.tenant)
        request = checked_extension(extension, descriptor, await self._pools.get(pool))
        return await self._described(await self._store.extend(request))

    async def close(self, session_id: str, caller: Caller) -> SessionInfo:
        pool_of_session(session_id, caller)
        return await self._described(await self._store.close(session_id, caller.tenant))

    async def delete(self, session_id: str, caller: Caller, expected_head: Head | None = None) -> None:
        pool_of_session(session_id, caller)
        epoch = await self._store.delete(session_id, caller.tenant, expected_head)
        await self._evict_everywhere(session_id, epoch, erased=True)

    @asynccontextmanager
    async def step(
        self,
        request: StepRequest,
        caller: Caller,
        seconds_left: float | None = None,
        *,
        is_implicit: bool = False,
    ) -> AsyncGenerator[StepEvents, None]:
        """Takes a step, whose events are iterated inside the context. Leaving the context early cancels the step,
        unless it is being committed.

        `seconds_left` is what the client's deadline leaves, at which the transport cancels the call; when it is None,
        the call is refused after the gateway's own `step_timeout_seconds`. After a step that is implicit, the session
        lives as long as the pool's conversations do.
        """
        call = replace(await self._checked(request, caller, seconds_left), is_implicit=is_implicit)
        if call.role.budgets.on_budget is OnBudget.FOLD:
            call = replace(call, at_budget=self._fold_at_budget(call, caller))
        limit = self._step_timeout_seconds if seconds_left is None else None
        async with self._calls.run(call, limit) as events:
            yield events

    async def _checked(self, request: StepRequest, caller: Caller, seconds_left: float | None) -> StepCall:
        """Checks what can be checked before the session's record is read."""
        now = time.monotonic()
        pool_name = pool_of_session(request.session_id, caller)
        check(requests.step(request))
        check(requests.schema_of_step(request), Reason.INVALID_SCHEMA)
        facts = await self._facts.get(request.session_id, caller.tenant)
        pool = await self._pools.get(pool_name)
        require_open(pool)
        role = pool.role(facts.role)
        check(requests.step_of_role(request, role))
        deadline = now + (self._step_timeout_seconds if seconds_left is None else seconds_left)
        bytes_per_token = self._workers.bytes_per_token(pool.pool)
        return StepCall(request, caller.tenant, pool, role, facts, bytes_per_token, now, deadline)

    async def _task_of_parent(self, parent: str, caller: Caller) -> str:
        """The task of a new session's parent; empty without one. Raises Refused: SESSION_NOT_FOUND."""
        if not parent:
            return ""
        try:
            pool_of_session(parent, caller)
            return (await self._facts.get(parent, caller.tenant)).task
        except Refused as error:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session: parent_session_id") from error

    async def _evict_everywhere(self, session_id: str, epoch: int, *, erased: bool = False) -> tuple[int, bool]:
        """Asks every worker, since what they have published may be a second old."""
        pool = pool_of(session_id) or ""
        return await self._clients.evict(pool, self._workers.states(pool), session_id, epoch, erased=erased)

    async def _described(self, descriptor: Descriptor) -> SessionInfo:
        return (await self._describe_all(await self._pool_or_none(descriptor.pool), [descriptor]))[0]

    async def _describe_all(
        self, pool: PoolDocument | None, descriptors: Sequence[Descriptor]
    ) -> Sequence[SessionInfo]:
        if not descriptors:
            return []
        names = [descriptor.published_as for descriptor in descriptors]
        residency = await self._workers.residency(descriptors[0].pool, names)
        return [session_info(item, pool, residency.get(item.published_as)) for item in descriptors]

    async def _pool_or_none(self, name: str) -> PoolDocument | None:
        """The pool's document; None when it is gone, since its sessions stay readable."""
        try:
            return await self._pools.get(name)
        except Refused:
            return None

    async def _ids(self, entry: LogEntry, session_id: str, generation: int) -> Sequence[int]:
        return unpack_ids(await self._store.ids(session_id, generation, entry.start, entry.head.length))


def _page_size(asked: int, default: int, most: int) -> int:
    check(requests.page_size(asked, most))
    return asked or default


def _index(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 10):
        raise _foreign_page()
    return int(token or 0)


def _foreign_page() -> Refused:
    return invalid([("page_token", "does not belong to this list; begin again without it")])


def _selects(query: SessionQuery, session: SessionInfo) -> bool:
    wanted = (query.state, session.state), (query.tier, session.tier), (query.role, session.role)
    return all(text in ("", value) for text, value in (*wanted, (query.task, session.task)))
