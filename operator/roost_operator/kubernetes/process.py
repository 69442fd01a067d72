"""The operator's process: leads, watches by kopf, resyncs every pool, and reconciles."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import kopf

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError
from roost_operator.kubernetes.leader import Leader
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.kubernetes.settings import Settings
from roost_operator.kubernetes.work_queue import Queue
from roost_operator.plan.names import POOL_LABEL

LOG = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Until `stop` is set. Raises LostError when another operator leads, OSError when a port is taken."""
    metrics = Metrics()
    metrics.serve(settings.metrics_host, settings.metrics_port)
    api = await Api.connect()
    try:
        leader = Leader(api, settings.namespace, settings.identity, settings.lease_seconds)
        leading = asyncio.ensure_future(leader.lead(lambda: _work(api, settings, metrics, stop)))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((leading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not metrics.leads:
            leading.cancel()
        with suppress(asyncio.CancelledError):
            await leading
    finally:
        await api.aclose()


async def _work(api: Api, settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    metrics.lead(True)
    reconciler = Reconciler(api, settings.installation, metrics)
    queue = Queue(reconciler.reconcile)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(queue.run()),
                group.create_task(_resync(api, queue, settings.resync_seconds)),
            ]
            watching = group.create_task(_watch(queue, settings, stop))
            await stop.wait()
            for task in tasks:
                task.cancel()
            await watching  # kopf ends by its own flag; cancelled, it would wait for its watches' timeouts
    finally:
        metrics.lead(False)


async def _resync(api: Api, queue: Queue, seconds: float) -> None:
    """Asks for every pool, again and again: what no watch tells (leases, the store, a lost event) is seen so."""
    while True:
        try:
            for pool in await api.list(kinds.POOL):
                await queue.add(pool["metadata"]["namespace"], pool["metadata"]["name"])
        except (ApiError, OSError, TimeoutError) as error:
            LOG.warning("pools cannot be listed: %s", error)
        await asyncio.sleep(seconds)


async def _watch(queue: Queue, settings: Settings, stop: asyncio.Event) -> None:
    """kopf watches pools and their RayServices and asks for what changed. It writes nothing of its own: no finalizers,
    no annotations, no peering."""
    options = kopf.OperatorSettings()
    options.posting.enabled = False
    await kopf.operator(
        registry=registry(queue),
        settings=options,
        standalone=True,
        clusterwide=True,
        liveness_endpoint=settings.liveness,
        stop_flag=stop,
    )
    stop.set()  # kopf takes SIGTERM for itself


def registry(queue: Queue) -> kopf.OperatorRegistry:
    """The handlers. They only say which pool changed."""
    made = kopf.OperatorRegistry()

    @kopf.on.event(kinds.POOL.group, "v1alpha1", kinds.POOL.plural, registry=made)
    async def pool_changed(namespace: str | None, name: str, **_: Any) -> None:
        await queue.add(namespace or "default", name)

    @kopf.on.event(kinds.SERVICE.group, "v1", kinds.SERVICE.plural, labels={POOL_LABEL: kopf.PRESENT}, registry=made)
    async def service_changed(namespace: str | None, labels: Any, **_: Any) -> None:
        await queue.add(namespace or "default", labels[POOL_LABEL])

    @kopf.on.login(registry=made)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return made
