"""Null workers between which sessions move: they leave, and rebuild logs."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace

from null_checks import Context
from null_worker import NullWorker
from roost.contract.lease import WorkerLease
from roost.contract.loghash import unpack_ids
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import abort
from roost.v1 import worker_service_pb2 as wpb


class LeavingWorker(NullWorker):
    """A worker that says that it is about to drain. It does not know the call Rebuild."""

    leaving_seconds = 0.0

    def _lease(self) -> WorkerLease:
        lease = super()._lease()
        return replace(lease, leaving=self.leaving_seconds > 0, leaving_seconds=self.leaving_seconds)

    async def leave(self, seconds: float = 60.0) -> None:
        self.leaving_seconds = seconds
        await self.publish()

    async def stay(self) -> None:
        self.leaving_seconds = 0.0
        await self.publish()


class RebuildingWorker(LeavingWorker):
    """A worker that asks for whole logs and keeps them; `may_finish` holds its rebuilds up."""

    def __init__(self, *arguments: object, **fields: object) -> None:
        super().__init__(*arguments, **fields)  # type: ignore[arg-type]
        self.rebuilds: list[wpb.RebuildStart] = []
        self.most_at_once = self._at_once = 0
        self.refuse_rebuilds: Reason | None = None
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def Rebuild(  # noqa: N802
        self, requests: AsyncIterator[wpb.RebuildRequest], context: Context
    ) -> AsyncIterator[wpb.RebuildResponse]:
        await self._check_secret(context)
        start = (await anext(aiter(requests))).start
        self.rebuilds.append(start)
        self._happened()
        if self.refuse_rebuilds is not None:
            await abort(context, Refused(self.refuse_rebuilds, "scripted refusal"))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield wpb.RebuildResponse(need_history=wpb.NeedHistory(from_token=0))
            ids = array("I")
            async for request in requests:
                ids += unpack_ids(request.history.token_ids)
                if request.history.last:
                    break
            await self.may_finish.wait()
        finally:
            self._at_once -= 1
        assert len(ids) == start.session.head.length
        self.parked[start.session.session_id] = ids
        await self.publish()
        yield wpb.RebuildResponse(rebuilt=wpb.Rebuilt(prefilled_tokens=len(ids)))
