"""A gateway that plays a script: what it sends, and when it breaks, is written down by the test."""

# ruff: noqa: N802  the names of the contract
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import grpc

from roost import Client, Delta, Event, Restarted, RetryConfig, Session
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import abort, code_of
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server

SESSION = "default/test/" + "0" * 26


@dataclass(frozen=True)
class Refuse:
    """Ends the call with a status; without a reason it carries no details, as gRPC's own failures."""

    code: grpc.StatusCode
    reason: Reason | None = None
    retry_seconds: float | None = None
    metadata: tuple[tuple[str, str], ...] = ()


QUICK = RetryConfig(initial_backoff=0.001, max_backoff=0.002, give_up_after=20.0)
"""Hardly any wait between tries."""

BREAK = Refuse(grpc.StatusCode.UNAVAILABLE)


class Hang:
    """Sends nothing more until the call is cancelled."""


Action = pb.StepResponse | Refuse | Hang


def attempt(epoch: int) -> pb.Attempt:
    return pb.Attempt(epoch=epoch, nonce=bytes([epoch]) * 16)


def started(epoch: int, worker: str = "w") -> pb.StepResponse:
    return pb.StepResponse(started=pb.StepStarted(attempt=attempt(epoch), worker=worker, prompt_tokens=5))


def delta(text: str, offset: int = 0, *, epoch: int = 1, text_offset: int | None = None) -> pb.StepResponse:
    """A piece with one token per byte of text."""
    data = text.encode()
    return pb.StepResponse(
        delta=pb.StepDelta(
            attempt=attempt(epoch),
            token_offset=offset,
            token_ids=data,
            text_offset=offset if text_offset is None else text_offset,
            text=text,
        )
    )


def restarted(epoch: int) -> pb.StepResponse:
    return pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt(epoch), reason="lost"))


def committed(text: str, *, length: int = 50, replayed: bool = False) -> pb.StepResponse:
    return pb.StepResponse(
        committed=pb.StepCommitted(
            output=pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, content=text),
            finish_reason=pb.FINISH_REASON_STOP,
            head=pb.Head(length=length, log_hash=b"h" * 16),
            output_tokens=len(text.encode()),
            replayed=replayed,
            seed=7,
        )
    )


class ScriptedGateway(SessionServiceServicer):
    """Each Step call plays the next of `scripts`. Other methods answer for one session, after `refusals`."""

    def __init__(self, *scripts: Sequence[Action]) -> None:
        self.scripts = list(scripts)
        self.refusals: list[Refuse] = []
        self.steps: list[pb.StepRequest] = []
        self.calls: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.time_left: list[float | None] = []
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_SessionServiceServicer_to_server(self, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.server.stop(None)

    async def Step(self, request: pb.StepRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.StepResponse]:
        copy = pb.StepRequest()
        copy.CopyFrom(request)
        self.steps.append(copy)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        self.time_left.append(context.time_remaining())
        try:
            for action in self.scripts.pop(0):
                if isinstance(action, pb.StepResponse):
                    yield action
                else:
                    await self._act(action, context)
        except (asyncio.CancelledError, GeneratorExit):  # the latter where a message was being written
            self.cancelled.set()
            raise

    async def _act(self, action: Refuse | Hang, context: grpc.aio.ServicerContext) -> None:
        if isinstance(action, Hang):
            self.hanging.set()
            await asyncio.Event().wait()
        elif action.reason is None:
            await context.abort(action.code, "scripted")
        else:
            assert action.code is code_of(action.reason), "no gateway sends this reason with this status"
            metadata = dict(action.metadata)
            refused = Refused(action.reason, "scripted", retry_seconds=action.retry_seconds, metadata=metadata)
            await abort(context, refused)

    async def _answered(self, name: str, context: grpc.aio.ServicerContext) -> pb.Session:
        self.calls.append(name)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        if self.refusals:
            await self._act(self.refusals.pop(0), context)
        return pb.Session(id=SESSION, pool="default/test", head=pb.Head(length=9, log_hash=b"i" * 16))

    async def OpenSession(
        self, request: pb.OpenSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.OpenSessionResponse:
        self.opened = request
        return pb.OpenSessionResponse(session=await self._answered("open", context))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=await self._answered("get", context))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteSessionResponse:
        await self._answered("delete", context)
        return pb.DeleteSessionResponse()


@asynccontextmanager
async def session_on(*gateways: ScriptedGateway, retry: RetryConfig = QUICK) -> AsyncIterator[Session]:
    """A session of a client whose first gateway is the first one given."""
    async with await Client.connect([gateway.target for gateway in gateways], retry=retry, lazy=True) as client:
        yield client.session(SESSION)


def text_of(events: Sequence[Event]) -> str:
    """The text a reader has after all events, heeding Restarted."""
    text = ""
    for event in events:
        text = text + event.text if isinstance(event, Delta) else "" if isinstance(event, Restarted) else text
    return text


def serve(*scripts: Sequence[Action]) -> None:
    """Runs a gateway in this process until it is killed; prints its address."""

    async def run() -> None:
        async with ScriptedGateway(*scripts) as gateway:
            print(gateway.target, flush=True)
            await asyncio.Event().wait()

    asyncio.run(run())
