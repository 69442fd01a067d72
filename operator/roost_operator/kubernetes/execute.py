"""Does what a plan says, in an order in which it may be cut off after any call and begun again."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from roost_operator.api.spec import API_VERSION, KIND, AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import JSON_PATCH, Api, Document
from roost_operator.kubernetes.pool_store import PoolStore
from roost_operator.plan import names
from roost_operator.plan.observed import Observed
from roost_operator.plan.plan import Plan, Resize, Step
from roost_operator.plan.status import Event

Reached = Callable[[str], None]
"""Called after each call, with its name; tests cut the execution off there."""


async def execute(
    api: Api, store: PoolStore, pool: AgentPool, plan: Plan, seen: Observed, reached: Reached = lambda point: None
) -> int:
    """Returns the number of calls that changed something. Raises ApiError, StoreUnavailableError."""
    calls = _Calls(reached)
    if plan.step is Step.CLAIM:
        await calls.do("finalizer", _set_finalizer(api, pool, present=True))
    if not seen.store.problem:
        calls.count += await store.set_drains(pool.pool, seen.workers, plan.drain)
        if plan.document is not None:
            await calls.do("document", store.publish(pool.pool, plan.document))
    await _change_children(api, pool, plan, calls)
    if plan.withdraw:
        await calls.do("withdraw", store.withdraw(pool.pool))
    if plan.purge:
        await calls.do("purge", store.purge(pool.pool))
    await _tell(api, pool, plan, seen, calls)
    if plan.step is Step.FORGET:
        await calls.do("released", _set_finalizer(api, pool, present=False))
    return calls.count


class _Calls:
    """Counts calls, and tells of each when it is done."""

    def __init__(self, reached: Reached) -> None:
        self.count, self._reached = 0, reached

    async def do(self, name: str, call: Awaitable[object]) -> None:
        await call
        self.count += 1
        self._reached(name)


async def _change_children(api: Api, pool: AgentPool, plan: Plan, calls: _Calls) -> None:
    namespace = pool.metadata.namespace
    for child in plan.apply:
        await calls.do(child["kind"], api.apply(kinds.CHILDREN[child["kind"]], child))
    if plan.resize is not None:
        patch = _resize(plan.resize)
        await calls.do("resize", api.patch(kinds.CLUSTER, namespace, plan.resize.cluster, patch, how=JSON_PATCH))
    for one in plan.delete:
        await calls.do("delete", api.delete(kinds.CHILDREN[one.kind], namespace, one.name))


async def _tell(api: Api, pool: AgentPool, plan: Plan, seen: Observed, calls: _Calls) -> None:
    """Status and events."""
    namespace, name = pool.metadata.namespace, pool.metadata.name
    if plan.step is not Step.FORGET and plan.status != seen.status:
        body = {"status": plan.status}
        await calls.do("status", api.patch(kinds.POOL, namespace, name, body, subresource="status"))
    for event in plan.events:
        await calls.do("event", api.create(kinds.EVENT, namespace, event_document(pool, seen.uid, event)))


async def _set_finalizer(api: Api, pool: AgentPool, *, present: bool) -> None:
    """Adds or removes ours and no other, against the version that was read."""
    namespace, name = pool.metadata.namespace, pool.metadata.name
    live = await api.get(kinds.POOL, namespace, name)
    if live is None:
        return
    metadata = live["metadata"]
    others = [one for one in metadata.get("finalizers") or () if one != names.FINALIZER]
    wanted = [*others, names.FINALIZER] if present else others
    body = {"metadata": {"finalizers": wanted or None, "resourceVersion": metadata["resourceVersion"]}}
    await api.patch(kinds.POOL, namespace, name, body)


def _resize(resize: Resize) -> list[dict[str, Any]]:
    """A JSON patch: the list of groups is atomic, so that applying one would take all of it from KubeRay."""
    group = "/spec/workerGroupSpecs/0"
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": f"{group}/groupName", "value": names.WORKER_GROUP},
        {"op": "replace", "path": f"{group}/replicas", "value": resize.pods},
    ]
    if resize.remove:
        victims = {"workersToDelete": list(resize.remove)}
        patch.append({"op": "add", "path": f"{group}/scaleStrategy", "value": victims})
    return patch


def event_document(pool: AgentPool, uid: str, event: Event) -> Document:
    """A Kubernetes event about the pool."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    involved = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": pool.metadata.name,
        "namespace": pool.metadata.namespace,
        "uid": uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{pool.metadata.name}.", "namespace": pool.metadata.namespace},
        "involvedObject": involved,
        "type": event.kind,
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
