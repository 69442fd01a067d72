"""What the handlers start and wake: leadership, reconciliations, and the lists that keep kopf's index true.

kopf 1.45.2 has no leadership by a Lease (its peering needs CRDs), so kopf watches in every operator, and only the one
that leads reconciles.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Collection
from contextlib import suppress

from roost_operator.api.spec import KIND
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import Index, KnownObjects, labels_of
from roost_operator.kubernetes.leader import Leader
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.kubernetes.reconciliations import Reconciliations
from roost_operator.kubernetes.settings import Settings
from roost_operator.kubernetes.tasks import until_one_ends
from roost_operator.plan.names import POOL_LABEL

LOG = logging.getLogger(__name__)
RELIST_SECONDS = 120.0
"""How often children are listed, whatever the watches show."""
DISCOVERY_SECONDS = 5.0
"""How often the API server is asked for kinds that it did not have."""
STUCK_SECONDS = 120.0
"""How long a part may stand still; each of its calls ends after a fraction of that."""
_NO_ANSWER = (ApiError, OSError, TimeoutError)


class KindsChangedError(RuntimeError):
    """The cluster has other kinds than those that kopf watches: kopf 1.45.2 looks for kinds only when it starts, since
    the operator has no right to list CRDs."""


class Controller:
    """Everything that runs beside kopf's own tasks. When it ends by itself, it stops kopf."""

    def __init__(
        self, api: Api, metrics: Metrics, settings: Settings, index: Index, custom_kinds: Collection[Kind] | None
    ) -> None:
        """`custom_kinds` are those of `kinds.CUSTOM` that kopf watches, or None while the API server does not say."""
        self._api, self._metrics, self._settings, self._custom_kinds = api, metrics, settings, custom_kinds or ()
        self._kinds_known = asyncio.Event()
        if custom_kinds is not None:
            self._kinds_known.set()
        self._leader = Leader(api, settings.namespace, settings.identity, settings.lease_seconds)
        writer = api.guarded(self._leader.check)
        self._known = KnownObjects(writer, index, self._custom_kinds)
        self._reconciler = Reconciler(writer, settings.installation, metrics, self._known)
        self._reconciliations = Reconciliations(self._reconciler.reconcile)
        self._indexed, self._resynced = asyncio.Event(), time.monotonic()
        self._started = time.monotonic()
        metrics.depth_from(lambda: self._reconciliations.depth)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_stop_kopf)

    @classmethod
    async def start(cls, settings: Settings, index: Index) -> "Controller":
        """Raises OSError when the metrics' port is taken."""
        metrics = Metrics()
        metrics.serve(settings.metrics_host, settings.metrics_port)
        api = await Api.connect(settings.identity)
        custom_kinds: set[Kind] | None = None
        with suppress(*_NO_ANSWER):  # they are discovered later
            custom_kinds = {kind for kind in kinds.CUSTOM if await api.knows(kind)}
        return cls(api, metrics, settings, index, custom_kinds)

    async def stop(self) -> None:
        """Raises LostError or KindsChangedError when one of them has ended the controller before."""
        self._task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await self._task
        finally:
            await self._reconciler.aclose()
            await self._api.aclose()
            self._metrics.close()

    def changed(self, document: Document, *, deleted: bool) -> None:
        """Takes up an event of a watched object, and wakes its pool."""
        self._indexed.set()
        if self._metrics.leads:
            self._known.heard(document, deleted=deleted)
            self._wake(document)

    def stuck(self) -> dict[str, float]:
        """Return the parts that stand still, and for how many seconds. This is about the operator's own progress: to
        restart it does not help when the API server or a store does not answer."""
        parts = [("leadership", self._leader.tried, STUCK_SECONDS)]
        if self._metrics.leads:
            parts.append(("resync", self._resynced, self._settings.resync_seconds + STUCK_SECONDS))
            if (since := self._reconciliations.standing_since()) is not None:
                parts.append(("queue", since, STUCK_SECONDS))
        now = time.monotonic()
        return {part: round(now - since, 1) for part, since, limit in parts if now - since > limit}

    async def _run(self) -> None:
        await until_one_ends(self._leader.lead(self._lead), self._discover())

    async def _lead(self) -> None:
        await self._kinds_known.wait()  # a kind that is not known yet is not missing
        self._resynced = time.monotonic()
        self._metrics.lead(True)
        try:
            await until_one_ends(self._resync(), self._relist())
        finally:
            self._metrics.lead(False)
            await self._reconciliations.aclose()

    async def _resync(self) -> None:
        """Wakes every pool, so that what no watch shows is seen: leases, the store, a lost event."""
        while True:
            self._resynced = time.monotonic()
            for pool in await self._list(kinds.POOL):
                self._wake(pool)
            await asyncio.sleep(self._settings.resync_seconds)

    async def _relist(self) -> None:
        """Lists children. At first only if this operator has waited long for leadership, since its index may then keep
        objects whose deletion it missed. Otherwise kopf has just listed them, and two lists at a time would cost memory
        for good."""
        await asyncio.sleep(max(0.0, self._started + RELIST_SECONDS - time.monotonic()))
        while True:
            for kind in kinds.WATCHED:
                if kind is not kinds.POOL and (kind not in kinds.CUSTOM or kind in self._custom_kinds):
                    await self._list(kind, POOL_LABEL)
            await asyncio.sleep(RELIST_SECONDS)

    async def _list(self, kind: Kind, selector: str = "") -> list[Document]:
        """Mends what is known of a kind by all of its objects, and returns them; none when there is no answer."""
        try:
            documents, version = await self._api.list_at(kind, selector)
        except _NO_ANSWER as error:
            if getattr(error, "status", None) == 404 and kind in self._custom_kinds:
                raise KindsChangedError(f"the cluster has lost {kind.plural}") from error
            LOG.warning("%s cannot be listed: %s", kind.plural, error or type(error).__name__)
            return []
        if documents:
            await self._indexed.wait()  # what is not indexed yet is not missing
        for document in self._known.listed(kind, documents, version):
            self._wake(document)
        return documents

    async def _discover(self) -> None:
        missing = [kind for kind in kinds.CUSTOM if kind not in self._custom_kinds]
        while True:
            await asyncio.sleep(DISCOVERY_SECONDS)
            answers = 0
            for kind in missing:
                with suppress(*_NO_ANSWER):
                    if await self._api.knows(kind):
                        raise KindsChangedError(f"the cluster has got {kind.plural}")
                    answers += 1
            if answers == len(missing):
                self._kinds_known.set()

    def _wake(self, document: Document) -> None:
        metadata = document["metadata"]
        owners = metadata.get("ownerReferences") or ()
        owner = next((str(owner["name"]) for owner in owners if owner.get("kind") == KIND), "")
        pool = metadata["name"] if document["kind"] == KIND else owner or labels_of(document).get(POOL_LABEL)
        if pool:
            self._reconciliations.wake(metadata["namespace"], pool)


def _stop_kopf(task: "asyncio.Task[None]") -> None:
    """Ends kopf as the kubelet does: kopf 1.45.2 gives handlers no other way, and `stop` raises the reason."""
    if not task.cancelled():
        signal.raise_signal(signal.SIGTERM)
