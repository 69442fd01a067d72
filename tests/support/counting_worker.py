"""A null worker that counts how its steps come."""

from typing import Any

import grpc

from null_worker import NullWorker
from roost_worker.server.trunk import TrunkStream


class CountingWorker(NullWorker):
    """Counts trunks, and the Generate calls that come without one."""

    knows_trunks = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.opened_trunks = self.open_trunks = self.plain_calls = 0

    async def Trunk(self, requests: Any, context: Any) -> None:  # noqa: N802
        self.opened_trunks += 1
        if not self.knows_trunks:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        self.open_trunks += 1
        try:
            await super().Trunk(requests, context)
        finally:
            self.open_trunks -= 1
            self._happened()

    async def Generate(self, requests: Any, context: Any) -> None:  # noqa: N802
        self.plain_calls += not isinstance(context, TrunkStream)
        await super().Generate(requests, context)
