"""Calls to workers: one channel per address, dropped when it breaks, and what every call carries."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from roost.contract.messages import Message, ToolDefinition
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import SessionTool
from roost.contract.why import KvEviction
from roost.grpc_errors import details_of
from roost.store.records import NewSession
from roost.v1.session_service_pb2 import Tool
from roost.v1.worker_service_pb2 import (
    CheckSessionRequest,
    CountTokensRequest,
    EvictRequest,
    HoldRequest,
    RecallEvictionRequest,
)
from roost.wire import message_to_wire, session_tool_from_wire
from roost.wire_why import eviction_from_wire
from roost_gateway.fleet.worker_channel import SECRET_KEY, WorkerChannel
from roost_gateway.routing.choice import WorkerState
from roost_gateway.telemetry import trace_metadata

log = logging.getLogger(__name__)

CALL_SECONDS = 2.0
"""Limit of the short calls: Evict, RecallEviction, Hold."""


class WorkerClients:
    """Channels to workers. A channel lives until it breaks or its address belongs to no worker any more."""

    def __init__(self, pool_secrets: Mapping[str, str]) -> None:
        self._secrets = pool_secrets
        self._channels: dict[str, WorkerChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def channel(self, address: str) -> WorkerChannel:
        """The channel to `address`, created on first use."""
        if address not in self._channels:
            self._channels[address] = WorkerChannel(address)
        return self._channels[address]

    def secret(self, pool: str) -> str:
        """The pool's secret; empty if it has none."""
        return self._secrets.get(pool, "")

    def metadata(self, pool: str) -> list[tuple[str, str | bytes]]:
        """The metadata of every call: the pool's secret and the trace."""
        return [(SECRET_KEY, self.secret(pool)), *trace_metadata()]

    def forget(self, broken: WorkerChannel) -> None:
        """Makes no new calls on a broken channel: the next call connects at once, without the channel's backoff."""
        if self._channels.get(broken.address) is broken:
            del self._channels[broken.address]
            self._spawn(broken.retire())

    def retain(self, addresses: Iterable[str]) -> None:
        """Forgets the channels to all other addresses."""
        for address in set(self._channels) - set(addresses):
            self.forget(self._channels[address])

    async def evict(
        self, pool: str, workers: Iterable[WorkerState], session_id: str, epoch: int, *, erased: bool = False
    ) -> tuple[int, bool]:
        """Drops a session's KV on workers; `erased`: because the session is gone. Returns the tokens dropped, and
        whether every worker answered."""
        request = EvictRequest(session_id=session_id, epoch=epoch, erased=erased)
        answers = await asyncio.gather(*(self._evict(pool, worker, request) for worker in workers))
        return sum(tokens or 0 for tokens in answers), None not in answers

    async def _evict(self, pool: str, worker: WorkerState, request: EvictRequest) -> int | None:
        try:
            stub = self.channel(worker.address).stub
            answer = await stub.Evict(request, timeout=CALL_SECONDS, metadata=self.metadata(pool))
            return int(answer.evicted_tokens)
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s did not evict %s: %s", worker.worker_id, request.session_id, error.details())
            return None

    async def check_session(
        self,
        worker: WorkerState,
        pool: PoolDocument,
        new: NewSession,
        tools: Sequence[ToolDefinition],
        limit_seconds: float,
    ) -> tuple[SessionTool, ...] | None:
        """Asks a worker whether steps could use a new session's system text and tools. Returns the tools with its
        verdict, or None when the worker gives none in time.

        Raises Refused: INVALID_SCHEMA, STEP_TOO_LONG, INVALID_REQUEST.
        """
        request = CheckSessionRequest(
            model_revision=pool.active_revision,
            system=new.system,
            tools=map(_tool_to_wire, tools),
            limit_tokens=pool.token_limit,
            date=new.date,
        )
        try:
            stub = self.channel(worker.address).stub
            answer = await stub.CheckSession(request, timeout=limit_seconds, metadata=self.metadata(pool.pool))
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            if refusal is not None:
                raise refusal from error
            log.warning("worker %s did not check a new session: %s", worker.worker_id, error.details())
            return None
        return tuple(map(session_tool_from_wire, answer.tools))

    async def count_tokens(
        self,
        worker: WorkerState,
        pool: PoolDocument,
        system: str,
        tools: Sequence[ToolDefinition],
        messages: Sequence[Message],
        date: str,
        limit_seconds: float,
    ) -> int:
        """Asks a worker for the tokens of the first prompt of a session of the `date`.

        Raises Refused: INVALID_REQUEST; WORKER_FAILED when the worker gives no count in time.
        """
        request = CountTokensRequest(
            model_revision=pool.active_revision,
            system=system,
            tools=map(_tool_to_wire, tools),
            messages=map(message_to_wire, messages),
            date=date,
        )
        try:
            stub = self.channel(worker.address).stub
            answer = await stub.CountTokens(request, timeout=limit_seconds, metadata=self.metadata(pool.pool))
        except grpc.aio.AioRpcError as error:
            log.warning("worker %s did not count tokens: %s", worker.worker_id, error.details())
            message = "the worker did not count the tokens; ask again"
            raise refusal_of(error) or Refused(Reason.WORKER_FAILED, message, retry_seconds=1.0) from error
        return int(answer.tokens)

    def hold(self, pool: str, worker: WorkerState, session_id: str, tool: str, expect_seconds: float) -> None:
        """Reports a pause to a worker's retention policy, without waiting: it is advice."""
        request = HoldRequest(session_id=session_id, tool=tool, expect_seconds=expect_seconds)
        self._spawn(self._hold(pool, worker, request))

    async def _hold(self, pool: str, worker: WorkerState, request: HoldRequest) -> None:
        try:
            stub = self.channel(worker.address).stub
            await stub.Hold(request, timeout=CALL_SECONDS, metadata=self.metadata(pool))
        except grpc.aio.AioRpcError as error:
            log.info("worker %s did not take a hold: %s", worker.worker_id, error.details())

    def recall_eviction(
        self, pool: str, worker: WorkerState, session_id: str, take: Callable[[KvEviction], None]
    ) -> None:
        """Asks a worker what it has dropped of a session, without waiting. `take` gets the answer, if there is one."""
        self._spawn(self._recall_eviction(pool, worker, session_id, take))

    async def _recall_eviction(
        self, pool: str, worker: WorkerState, session_id: str, take: Callable[[KvEviction], None]
    ) -> None:
        request = RecallEvictionRequest(session_id=session_id)
        try:
            stub = self.channel(worker.address).stub
            answer = await stub.RecallEviction(request, timeout=CALL_SECONDS, metadata=self.metadata(pool))
        except grpc.aio.AioRpcError as error:
            log.info("worker %s does not say what it has dropped: %s", worker.worker_id, error.details())
            return
        if answer.HasField("eviction"):
            take(eviction_from_wire(answer.eviction))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.aclose() for channel in channels))


def _tool_to_wire(tool: ToolDefinition) -> Tool:
    return Tool(name=tool.name, description=tool.description, parameters_json=tool.parameters_json)


def refusal_of(error: grpc.aio.AioRpcError, others: Collection[Reason] = ()) -> Refused | None:
    """The refusal that the client gets after a worker's: of a request at fault, as INVALID_ARGUMENT says whatever its
    reason, which perhaps only a newer worker knows; or for one of the `others`. None when another worker may do better.
    """
    details = details_of(error)
    reason = Reason(details.reason) if details.reason in (*_OF_THE_REQUEST, *others) else Reason.INVALID_REQUEST
    if details.reason != reason and error.code() != grpc.StatusCode.INVALID_ARGUMENT:
        return None
    return Refused(
        reason,
        error.details() or "",
        retry_seconds=details.retry_seconds,
        violations=details.violations,
        metadata=details.metadata,
    )


_OF_THE_REQUEST = (Reason.INVALID_SCHEMA, Reason.STEP_TOO_LONG, Reason.INVALID_REQUEST)
"""Reasons for which no worker would take a session or a step."""
