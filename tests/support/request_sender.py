"""Sends the requests of `hostile_requests` to a gateway."""

import uuid
from collections import Counter
from collections.abc import Sequence

import grpc
import grpc.aio
from google.protobuf.message import Message

from hostile_requests import NEW_STEP, SERVICE
from roost.v1 import session_service_pb2 as pb

SLOTS = 48
DEADLINE_SECONDS = 30.0
BAD = ("INTERNAL", "UNKNOWN")
"""Statuses that no request may be answered with."""


class Sender:
    """Sends drawn requests to a gateway, and counts the answers by their status."""

    def __init__(self, channel: grpc.aio.Channel, pool: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._channel = channel
        self._pool = pool
        self._metadata = metadata
        self._slots: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.bad: list[str] = []

    async def begin(self) -> None:
        self._slots = [await self._open() for _ in range(SLOTS)]

    async def send(self, name: str, request: Message) -> None:
        slot = self._fill_in(request)
        status, response = await self._call(name, request)
        self.statuses[status] += 1
        if status in BAD:
            self.bad.append(f"{name}: {str(request)[:500]}")
        if isinstance(response, pb.OpenSessionResponse | pb.ForkSessionResponse):
            self._slots[hash(response.session.id) % SLOTS] = response.session.id
        if slot is not None and (name in ("CloseSession", "DeleteSession") or status == "NOT_FOUND"):
            self._slots[slot] = await self._open()

    def _fill_in(self, request: Message) -> int | None:
        """Replaces a slot's name by the session's id, and asks for a new step. Returns the slot."""
        if isinstance(request, pb.StepRequest) and request.step_id == NEW_STEP:
            request.step_id = uuid.uuid4().hex
        for field, value in request.ListFields():
            if field.name.endswith("session_id") and value[:1] == "@" and value[1:].isdigit():
                setattr(request, field.name, self._slots[int(value[1:])])
                return int(value[1:])
        return None

    async def _call(self, name: str, request: Message) -> tuple[str, Message | None]:
        path, response = f"/{SERVICE.full_name}/{name}", getattr(pb, f"{name}Response")
        serialize = type(request).SerializeToString
        last: Message | None = None
        try:
            if name == "Step":
                stream = self._channel.unary_stream(path, serialize, response.FromString)
                async for event in stream(request, timeout=DEADLINE_SECONDS, metadata=self._metadata):
                    last = event
            else:
                last = await self._channel.unary_unary(path, serialize, response.FromString)(
                    request, timeout=DEADLINE_SECONDS, metadata=self._metadata
                )
        except grpc.aio.AioRpcError as error:
            return error.code().name, None
        return "OK", last

    async def _open(self) -> str:
        tool = pb.Tool(name="grep", parameters_json='{"properties": {"a": {"type": "string", "maxLength": 8}}}')
        request = pb.OpenSessionRequest(pool=self._pool, tools=[tool])
        status, response = await self._call("OpenSession", request)
        if not isinstance(response, pb.OpenSessionResponse):
            raise SystemExit(f"a session cannot be opened: {status}")
        return response.session.id
