"""An operator begins to lead with what it knows: of objects after a long wait, and of kinds after an outage."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pool_world import INSTALLATION
from roost_operator.kubernetes import controller as controller_module
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.controller import RELIST_SECONDS, Controller
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import KnownObjects, index_entries
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.settings import Settings
from roost_operator.plan.names import POOL_LABEL

WAIT = 60.0
ACCOUNT = {"namespace": "n", "name": "a", "resourceVersion": "1", "labels": {POOL_LABEL: "p"}}


class PlayedApi(Api):
    """An API server without objects and custom kinds."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lease_freed, self.answers, self.listed = asyncio.Event(), True, asyncio.Event()
        """Whether it answers questions for kinds; set once something was listed."""

    def guarded(self, guard: Callable[[], None]) -> Api:
        return self

    async def aclose(self) -> None:
        pass

    async def knows(self, kind: Kind) -> bool:
        if not self.answers:
            raise ConnectionError
        return False

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        await self.lease_freed.wait()
        return None

    async def create(self, kind: Kind, namespace: str, body: Document) -> Document:
        return body

    async def list_at(self, kind: Kind, selector: str = "") -> tuple[list[Document], str]:
        self.listed.set()
        return [], "9"


@asynccontextmanager
async def controller(
    api: PlayedApi, index: dict[Any, list[Document]], custom_kinds: Collection[Kind] | None
) -> AsyncIterator[Controller]:
    metrics = Metrics()
    metrics.serve("127.0.0.1", 0)
    started = Controller(api, metrics, Settings(INSTALLATION, "n", "me"), index, custom_kinds)
    try:
        yield started
    finally:
        await started.stop()


async def gone(known: KnownObjects) -> None:
    async with asyncio.timeout(WAIT):
        while await known.get(kinds.ACCOUNT, "n", "a"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_deletion_that_was_missed_before_leadership_is_known_at_its_begin() -> None:
    entries = index_entries({"kind": "ServiceAccount", "metadata": dict(ACCOUNT)})
    api = PlayedApi()
    async with controller(api, {key: [document] for key, document in entries.items()}, ()) as waiting:
        waiting._started -= RELIST_SECONDS
        assert await waiting._known.get(kinds.ACCOUNT, "n", "a")
        api.lease_freed.set()
        await gone(waiting._known)


async def test_a_leader_does_nothing_before_it_knows_which_kinds_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would report for a moment that KubeRay is missing."""
    monkeypatch.setattr(controller_module, "DISCOVERY_SECONDS", 0.001)
    api = PlayedApi()
    api.answers = False
    api.lease_freed.set()
    async with controller(api, {}, None) as leading:
        async with asyncio.timeout(WAIT):
            while leading._leader._renewed < 0:  # noqa: ASYNC110
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not api.listed.is_set()
            api.answers = True
            await api.listed.wait()
