"""Keeps the objects of one kind known: a list, then a watch, and a list again every now and then.

The list again makes it level-based: whatever a watch may lose, a lost event or a connection that is dead and does not
say so, is known `relist_seconds` later.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from roost_operator.kubernetes.api import Api, ApiError, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import KnownObjects

LOG = logging.getLogger(__name__)
RELIST_SECONDS = 120
UNKNOWN_SECONDS, TROUBLE_SECONDS = 5.0, 1.0
"""When it is tried again where there is no such kind, and where the API server does not answer."""
GONE = 410
"""The API server has forgotten the version that a watch was to begin with."""


@dataclass(slots=True)
class Watched:
    """One kind's objects with a label, and the way to keep them."""

    api: Api
    kind: Kind
    selector: str
    changed: Callable[[Document], None]
    """Told of objects that are new, changed or gone."""
    relist_seconds: int = RELIST_SECONDS
    objects: KnownObjects = field(default_factory=KnownObjects)
    known: bool = False
    """Whether the cluster knows the kind."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the objects are known."""
    alive: float = field(default_factory=time.monotonic)
    """When anything was heard or tried last, in seconds of the monotonic clock."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.alive = time.monotonic()
            try:
                await self._follow(await self._list())
            except ApiError as error:
                await asyncio.sleep(self._refused(error))
            except (OSError, TimeoutError) as error:
                LOG.warning("%s cannot be watched: %s", self.kind.plural, error or type(error).__name__)
                await asyncio.sleep(TROUBLE_SECONDS)

    async def _list(self) -> str:
        documents, version = await self.api.list_at(self.kind, self.selector)
        for document in documents:
            document.setdefault("apiVersion", self.kind.api_version)
            document.setdefault("kind", self.kind.kind)
        news = self.objects.listed(documents, version)
        self.known = True
        self.synced.set()
        for document in news:
            self.changed(document)
        return version

    async def _follow(self, version: str) -> None:
        async for event in self.api.watch(self.kind, self.selector, version, self.relist_seconds):
            self.alive = time.monotonic()
            self._take(event["type"], event["object"])

    def _take(self, kind: str, document: Document) -> None:
        if kind == "ERROR":
            raise ApiError(int(document.get("code", 500)), str(document.get("message", "")))
        if kind == "BOOKMARK":
            return
        if self.objects.gone(document) if kind == "DELETED" else self.objects.told(document):
            self.changed(document)

    def _refused(self, error: ApiError) -> float:
        """How long to wait."""
        if error.status == GONE:
            return 0.0
        if error.status == 404:
            self.objects.clear()
            self.known = False
            self.synced.set()
            return UNKNOWN_SECONDS
        LOG.warning("%s cannot be watched: %s", self.kind.plural, error)
        return TROUBLE_SECONDS
