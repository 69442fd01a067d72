"""What the operator reads: kept known by watches, so that a reconciliation asks the API server almost nothing.

Secrets are read anew each time: who may list and watch them may read every secret of the cluster at once.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from roost_operator.api.spec import KIND
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import KnownObjects, pool_of
from roost_operator.kubernetes.watching import RELIST_SECONDS, Watched
from roost_operator.plan import names

WATCHED: Mapping[Kind, str] = {
    kinds.SERVICE: names.POOL_LABEL,
    kinds.CLUSTER: names.POOL_LABEL,
    kinds.ACCOUNT: names.POOL_LABEL,
    kinds.POLICY: names.POOL_LABEL,
    kinds.BUDGET: names.POOL_LABEL,
    kinds.POD: names.POOL_LABEL,
    kinds.MONITOR: names.POOL_LABEL,
}
"""Kinds with the selector of those that are a pool's."""


class Reader(Protocol):
    """Where observations come from: the API server itself, or what is known of it."""

    async def knows(self, kind: Kind) -> bool: ...

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None: ...

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]: ...


class Cache:
    """Reads of watched kinds cost nothing; those of others go to the API server."""

    def __init__(
        self,
        api: Api,
        watched: Mapping[Kind, str],
        changed: Callable[[str, str], None],
        relist_seconds: int = RELIST_SECONDS,
    ) -> None:
        """`changed(namespace, pool)` is told when anything of a pool changed. Writes through `api` are heard of."""
        self._api, self._changed = api, changed
        self.pools = KnownObjects()
        """Told by whoever watches pools."""
        self._watched = {
            kind.kind: Watched(api, kind, selector, self._tell, relist_seconds) for kind, selector in watched.items()
        }
        api.on_written = self._written

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watched in self._watched.values():
                group.create_task(watched.run())

    async def synced(self) -> None:
        """Waits until everything is known."""
        for watched in self._watched.values():
            await watched.synced.wait()

    def quietest(self) -> float:
        """When the watch that is silent longest was heard last, by the monotonic clock."""
        return min(watched.alive for watched in self._watched.values())

    async def knows(self, kind: Kind) -> bool:
        watched = self._watched.get(kind.kind)
        return watched.known if watched else await self._api.knows(kind)

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        objects = self._objects(kind)
        return objects.get(namespace, name) if objects is not None else await self._api.get(kind, namespace, name)

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        objects = self._objects(kind)
        if objects is None:
            return await self._api.of_pool(kind, namespace, pool, component)
        found = objects.of_pool(namespace, pool)
        if not component:
            return found
        return [one for one in found if one["metadata"]["labels"].get(names.COMPONENT_LABEL) == component]

    def _tell(self, document: Document) -> None:
        pool = _owner(document) or pool_of(document)
        if pool:
            self._changed(document["metadata"]["namespace"], pool)

    def _written(self, kind: Kind, document: Document) -> None:
        objects = self._objects(kind)
        if objects is not None:
            objects.written(document)

    def _objects(self, kind: Kind) -> KnownObjects | None:
        if kind.kind == kinds.POOL.kind:
            return self.pools
        watched = self._watched.get(kind.kind)
        return watched.objects if watched else None


def _owner(document: Document) -> str:
    """The pool that owns it, whatever somebody made of its label."""
    owners = document["metadata"].get("ownerReferences") or ()
    return next((str(owner["name"]) for owner in owners if owner.get("kind") == KIND), "")
