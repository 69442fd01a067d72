"""The operator's process: leads, watches, resyncs every pool, and reconciles."""

import asyncio
import copy
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import kopf

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError
from roost_operator.kubernetes.cache import WATCHED, Cache
from roost_operator.kubernetes.health import Health
from roost_operator.kubernetes.leader import Leader
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.kubernetes.settings import Settings
from roost_operator.kubernetes.watching import RELIST_SECONDS
from roost_operator.kubernetes.work_queue import Queue

LOG = logging.getLogger(__name__)
STUCK_SECONDS = 120.0
"""How long a part may stand still; each call of it ends after a fraction of that."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Until `stop` is set. Raises LostError when another operator leads, OSError when a port is taken."""
    metrics, health = Metrics(), Health()
    metrics.serve(settings.metrics_host, settings.metrics_port)
    runner = await health.serve(settings.liveness)
    api = await Api.connect(settings.identity)
    try:
        leader = Leader(api, settings.namespace, settings.identity, settings.lease_seconds)
        health.watch("leadership", lambda: leader.tried, STUCK_SECONDS)
        work = _Work(api.guarded(leader.check), settings, metrics, health, stop)
        leading = asyncio.ensure_future(leader.lead(work.run))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((leading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not metrics.leads:
            leading.cancel()
        with suppress(asyncio.CancelledError):
            await leading
    finally:
        await api.aclose()
        await runner.cleanup()


class _Work:
    """What a leader does."""

    def __init__(self, api: Api, settings: Settings, metrics: Metrics, health: Health, stop: asyncio.Event) -> None:
        self._api, self._settings, self._stop = api, settings, stop
        self._metrics, self._health = metrics, health
        self._cache = Cache(api, WATCHED, self._changed)
        self._reconciler = Reconciler(api, settings.installation, metrics, self._cache)
        self._queue = Queue(self._reconciler.reconcile)
        self._resynced = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Until told to stop."""
        self._metrics.lead(True)
        self._metrics.depth_from(lambda: self._queue.depth)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part) for part in (self._cache.run(), self._reconcile(), self._resync())]
                watching = group.create_task(_watch(self._cache, self._queue, self._stop))
                await self._stop.wait()
                for task in tasks:
                    task.cancel()
                await watching  # kopf ends by its own flag; cancelled, it would wait for its watches' timeouts
        finally:
            self._metrics.lead(False)
            self._health.forget("queue", "watch", "resync")
            await self._reconciler.aclose()

    def _changed(self, namespace: str, pool: str) -> None:
        self._queue.ask(namespace, pool)

    async def _reconcile(self) -> None:
        self._health.watch("watch", self._cache.quietest, RELIST_SECONDS + STUCK_SECONDS)
        await self._cache.synced()  # what is not known yet is not missing
        self._health.watch("queue", self._queue.stuck_since, STUCK_SECONDS)
        await self._queue.run()

    async def _resync(self) -> None:
        """Asks for every pool, again and again: what no watch tells (leases, the store, a lost event) is seen so."""
        self._health.watch("resync", lambda: self._resynced, self._settings.resync_seconds + STUCK_SECONDS)
        while True:
            self._resynced = asyncio.get_running_loop().time()
            try:
                pools, version = await self._api.list_at(kinds.POOL)
                self._cache.pools.listed(pools, version)
                for pool in self._cache.pools.everything():
                    self._queue.ask(pool["metadata"]["namespace"], pool["metadata"]["name"])
            except (ApiError, OSError, TimeoutError) as error:
                LOG.warning("pools cannot be listed: %s", error or type(error).__name__)
            await asyncio.sleep(self._settings.resync_seconds)


async def _watch(cache: Cache, queue: Queue, stop: asyncio.Event) -> None:
    """kopf watches pools. It writes nothing of its own: no finalizers, no annotations, no peering; and it looks for no
    other kinds and namespaces, so that it needs no right to see them."""
    options = kopf.OperatorSettings()
    options.posting.enabled = False
    options.scanning.disabled = True
    handlers = registry(cache, queue.ask)
    await kopf.operator(registry=handlers, settings=options, standalone=True, clusterwide=True, stop_flag=stop)
    stop.set()  # kopf takes SIGTERM for itself


def registry(cache: Cache, ask: Callable[[str, str], None]) -> kopf.OperatorRegistry:
    """The handlers. They only make pools known, and say which changed."""
    made = kopf.OperatorRegistry()

    @kopf.on.event(kinds.POOL.group, "v1alpha1", kinds.POOL.plural, registry=made)
    async def pool_changed(namespace: str | None, name: str, event: Any, **_: Any) -> None:
        pool = copy.deepcopy(dict(event["object"]))
        if event["type"] == "DELETED":
            cache.pools.gone(pool)
        else:
            cache.pools.told(pool)
        ask(namespace or "default", name)

    @kopf.on.login(registry=made)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return made
