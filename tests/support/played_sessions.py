"""Sessions without workers and store, whose steps begin and commit by the rules of the real ones: what `Conversations`
runs on in tests that play many conversations."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from roost.contract.events import Committed, Event, FinishReason, Usage
from roost.contract.heads import Head
from roost.contract.messages import Message
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import ForkRequest, OpenRequest
from roost.contract.steps import StepRequest
from roost.store.conversation_index import ConversationIndex, MemoryConversationIndex
from roost.store.kept_conversations import MemoryKeptConversations
from roost.store.memory_detached import MemoryDetachedSteps
from roost.store.records import AlreadyCommitted, Began
from roost_gateway.core.caller import Caller
from roost_gateway.core.conversations import Conversations
from roost_gateway.core.kept_conversations import KeptConversations

POOL = "test/null"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(slots=True)
class PlayedStep:
    """A committed step."""

    step_id: str
    messages: tuple[Message, ...]
    output: Message
    head: Head


@dataclass(slots=True)
class PlayedSession:
    """A session and its log."""

    id: str
    tenant: str
    opened: OpenRequest
    log: list[PlayedStep] = field(default_factory=list)
    running: tuple[str, int] | None = None
    """Step id and number of the attempt that may commit."""
    holds: list[str] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return self.log[-1].head if self.log else Head()

    @property
    def spoken(self) -> list[Message]:
        """All messages of the log and outputs, in their order."""
        return [message for step in self.log for message in (*step.messages, step.output)]


Reply = Callable[[PlayedSession, StepRequest], Message]


class PlayedGateway:
    """`core.Gateway` as `Conversations` calls it. `reply` makes the output of a step."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.sessions: dict[str, PlayedSession] = {}
        self.generated = 0
        """Steps that were committed, without repetitions."""
        self._numbers = itertools.count()

    async def open(
        self, request: OpenRequest, caller: Caller, seconds_left: float | None, ttl_ms: int | None = None
    ) -> PlayedSession:
        return self._add(caller, request, [])

    async def fork(self, request: ForkRequest, caller: Caller, seconds_left: float | None) -> PlayedSession:
        parent = self._find(request.session_id, caller)
        heads = [Head(), *(step.head for step in parent.log)]
        at = heads.index(request.at or parent.head)
        return self._add(caller, replace(parent.opened, task=request.task), parent.log[:at])

    async def hold(self, session_id: str, tool: str, expect: float, head: Head | None, caller: Caller) -> None:
        self._find(session_id, caller).holds.append(tool)

    async def get(self, session_id: str, caller: Caller) -> Any:
        """Another client's attempt is taken to have died, so that nobody waits for it."""
        self._find(session_id, caller)
        return SimpleNamespace(running_step_id="")

    async def system_text(self, session_id: str, caller: Caller) -> str:
        return self._find(session_id, caller).opened.system

    async def list_steps(self, session_id: str, caller: Caller, page_size: int, page_token: str) -> Any:
        return SimpleNamespace(steps=self._find(session_id, caller).log, next_page_token="")

    @asynccontextmanager
    async def step(
        self, request: StepRequest, caller: Caller, seconds_left: float | None, *, is_implicit: bool
    ) -> AsyncIterator["PlayedEvents"]:
        events = PlayedEvents(self, self._find(request.session_id, caller), request, next(self._numbers))
        try:
            yield events
        finally:
            events.leave()

    def _add(self, caller: Caller, opened: OpenRequest, log: Sequence[PlayedStep]) -> PlayedSession:
        number = next(self._numbers)
        name = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
        session = self.sessions[f"{POOL}/{name}"] = PlayedSession(f"{POOL}/{name}", caller.tenant, opened, list(log))
        return session

    def _find(self, session_id: str, caller: Caller) -> PlayedSession:
        session = self.sessions.get(session_id)
        if session is None or session.tenant != caller.tenant:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session")
        return session


class PlayedEvents(AsyncIterator[Event]):
    """The only event of a step is its commit."""

    def __init__(self, gateway: PlayedGateway, session: PlayedSession, request: StepRequest, number: int) -> None:
        self._gateway = gateway
        self._session = session
        self._request = request
        self._attempt = (request.step_id, number)
        self._committed: PlayedStep | None = None
        self._ended = False
        self._began: Began | AlreadyCommitted | Refused
        try:
            self._began = self._begin()
        except Refused as refused:
            self._began = refused

    async def began(self) -> Began | AlreadyCommitted:
        if isinstance(self._began, Refused):
            raise self._began
        return self._began

    def _begin(self) -> Began | AlreadyCommitted:
        session, request = self._session, self._request
        self._committed = next((step for step in session.log if step.step_id == request.step_id), None)
        before = session.head.length
        if self._committed is not None:
            entry: Any = SimpleNamespace(start=self._committed.head.length - 2)
            descriptor: Any = None
            return AlreadyCommitted(entry, descriptor, b"", b"")
        if request.expected_head is not None and request.expected_head != session.head:
            raise Refused(Reason.HEAD_MISMATCH, "the log has other steps")
        if session.running is not None and session.running[0] != request.step_id:
            raise Refused(Reason.ANOTHER_STEP_RUNNING, "another step of this session is running")
        fenced: Any = session.running
        session.running = self._attempt
        descriptor = SimpleNamespace(head=Head(before))
        reference: Any = None
        return Began(reference, 0, descriptor, "", fenced)

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        await self.began()
        replayed, step = self._committed is not None, self._committed or self._commit()
        index = self._session.log.index(step)
        return Committed(
            step.step_id, step.output, FinishReason.STOP, Usage(), step.head, index, 0, 0, 0, replayed, 1, 0
        )

    def leave(self) -> None:
        if self._session.running == self._attempt:
            self._session.running = None

    def _commit(self) -> PlayedStep:
        session, request = self._session, self._request
        if session.running != self._attempt:
            raise Refused(Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over")
        session.running = None
        output = self._gateway.reply(session, request)
        self._gateway.generated += 1
        link = repr((session.head.log_hash, request.messages, output)).encode()
        head = Head(session.head.length + 2, hashlib.blake2b(link, digest_size=16).digest(), 1)
        step = PlayedStep(request.step_id, request.messages, output, head)
        session.log.append(step)
        return step


class PlayedPools:
    """One pool, which every caller may use."""

    def __init__(self) -> None:
        self.document = PoolDocument(POOL, model="null", roles=(PoolRole("coder"),))
        self.names = [POOL]

    def known(self, name: str) -> PoolDocument | None:
        return self.document if name == POOL else None

    async def get(self, name: str) -> PoolDocument:
        return self.document


def played_conversations(reply: Reply, index: ConversationIndex | None = None) -> tuple[Conversations, PlayedGateway]:
    """Conversations over played sessions, and the sessions."""
    gateway: Any = PlayedGateway(reply)
    pools: Any = PlayedPools()
    index, detached = index or MemoryConversationIndex(lambda: 0), MemoryDetachedSteps(lambda: 0)
    kept = KeptConversations(MemoryKeptConversations(lambda: 0), pools)
    return Conversations(gateway, pools, index, kept, detached, 600.0), gateway
