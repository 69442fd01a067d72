"""An operator that has waited long for leadership: what it missed meanwhile is mended before it acts on it for long."""

import asyncio
from typing import Any

from pool_world import INSTALLATION
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.controller import RELIST_SECONDS, Controller
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import KnownObjects, index_entries
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.settings import Settings
from roost_operator.plan.names import POOL_LABEL

WAIT = 30.0
ACCOUNT = {"namespace": "n", "name": "a", "resourceVersion": "1", "labels": {POOL_LABEL: "p"}}


class PlayedApi(Api):
    """An API server without objects, whose Lease is free once `freed` is set."""

    def __init__(self) -> None:
        super().__init__(None)
        self.freed = asyncio.Event()

    def guarded(self, guard: Any) -> Api:
        return self

    async def aclose(self) -> None:
        pass

    async def knows(self, kind: Kind) -> bool:
        return False

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        await self.freed.wait()
        return None

    async def create(self, kind: Kind, namespace: str, body: Document) -> Document:
        return body

    async def list_at(self, kind: Kind, selector: str = "") -> tuple[list[Document], str]:
        return [], "9"


async def gone(known: KnownObjects) -> None:
    async with asyncio.timeout(WAIT):
        while await known.get(kinds.ACCOUNT, "n", "a"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_deletion_that_was_missed_before_leadership_is_known_at_its_begin() -> None:
    api, metrics = PlayedApi(), Metrics()
    metrics.serve("127.0.0.1", 0)
    index = {
        key: [document] for key, document in index_entries({"kind": "ServiceAccount", "metadata": ACCOUNT}).items()
    }
    controller = Controller(api, metrics, Settings(INSTALLATION, "n", "me"), index, ())
    controller._started -= RELIST_SECONDS
    assert await controller._known.get(kinds.ACCOUNT, "n", "a")
    api.freed.set()
    try:
        await gone(controller._known)
    finally:
        await controller.stop()
