"""Executes a plan, in an order that may be cut off after any call and begun again."""

import logging
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from roost.fault_points import fault_point
from roost_operator.api.spec import API_VERSION, KIND, AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import JSON_PATCH, Api, ApiError, Document
from roost_operator.kubernetes.pool_store import PoolStore
from roost_operator.plan import names
from roost_operator.plan.difference import belongs, reference
from roost_operator.plan.observed import Observed
from roost_operator.plan.plan import Plan, Resize, Stage
from roost_operator.plan.status import Event

LOG = logging.getLogger(__name__)
_REFUSALS = (400, 403, 422)
_UNTYPED = "failed to create typed patch object"
"""Prefix of the API server's error (status 500) for an apply with an unknown field."""


class ChildRefusedError(ApiError):
    """The API server refuses a child of the pool, or another object has its name."""


async def execute(api: Api, store: PoolStore, pool: AgentPool, plan: Plan, observed: Observed) -> int:
    """Return the number of calls that changed something. Raises ApiError, StoreAwayError, and what the guard of
    `api` raises, which is called before each call, also those to the store."""
    calls = _Calls(api)
    if plan.stage is Stage.CLAIM:
        await calls.do(_set_finalizer(api, pool, present=True))
    if not observed.store.problem:
        seconds = float(pool.spec.workers.drain_timeout_seconds)
        for worker in observed.workers:
            wanted = worker.worker_id in plan.drain
            if wanted != (worker.drain_seconds is not None):
                await calls.do(store.set_drain(pool.pool, worker.worker_id, seconds if wanted else None))
        if plan.document is not None:
            if plan.document != observed.store.document:
                await calls.do(store.publish(pool.pool, plan.document))
            await calls.do(store.name(pool.pool))
    await _change_children(api, pool, plan, observed, calls)
    if plan.withdraw:
        await calls.do(store.forget(pool.pool))
        await calls.do(store.withdraw(pool.pool))
    if plan.purge:
        await calls.do(store.purge(pool.pool))
    await _report(api, pool, plan, observed, calls)
    if plan.stage is Stage.FORGET:
        await calls.do(_set_finalizer(api, pool, present=False))
    return calls.count


class _Calls:
    """Counts calls that changed something; a call that returns False did not. Tests kill or stop the operator after
    each."""

    def __init__(self, api: Api) -> None:
        self.count, self._guard = 0, api.guard

    async def do(self, call: Coroutine[Any, Any, object]) -> None:
        try:
            self._guard()
        except BaseException:
            call.close()
            raise
        if await call is not False:
            self.count += 1
            fault_point("operator.call.done")


async def _change_children(api: Api, pool: AgentPool, plan: Plan, observed: Observed, calls: _Calls) -> None:
    namespace = pool.metadata.namespace
    for child in plan.apply:
        if reference(child) not in observed.children:
            await _stay_off(api, pool, child)
        await calls.do(_apply(api, child))
    if plan.resize is not None:
        patch = _resize(plan.resize)
        await calls.do(api.patch(kinds.CLUSTER, namespace, plan.resize.cluster, patch, how=JSON_PATCH))
    for unwanted in plan.delete:
        await calls.do(api.delete(kinds.CHILDREN[unwanted.kind], namespace, unwanted.name))


async def _stay_off(api: Api, pool: AgentPool, child: Document) -> None:
    """Raises ChildRefusedError when another owner has an object of a new child's name: once applied, it would belong to
    the pool, and be deleted with it."""
    kind, name = kinds.CHILDREN[child["kind"]], child["metadata"]["name"]
    live = await api.get(kind, pool.metadata.namespace, name)
    if live is not None and not belongs(live, pool):
        text = f"{kind.kind} {name} is there and not this pool's: delete it, or give the pool another name"
        raise ChildRefusedError(409, text)


async def _apply(api: Api, child: Document) -> None:
    try:
        await api.apply(kinds.CHILDREN[child["kind"]], child)
    except ApiError as error:
        text = " ".join(str(error).split())
        if error.status not in _REFUSALS and not text.startswith(_UNTYPED):
            raise
        raise ChildRefusedError(error.status, f"{child['kind']} {child['metadata']['name']}: {text}") from error


async def report(api: Api, pool: AgentPool, plan: Plan, observed: Observed) -> None:
    """Write status and events of the plan, and nothing else. Raises ApiError."""
    await _report(api, pool, plan, observed, _Calls(api))


async def _report(api: Api, pool: AgentPool, plan: Plan, observed: Observed, calls: _Calls) -> None:
    namespace, name = pool.metadata.namespace, pool.metadata.name
    if plan.stage is not Stage.FORGET and plan.status != observed.pool.status:
        body = {"status": plan.status}
        await calls.do(api.patch(kinds.POOL, namespace, name, body, subresource="status"))
    for event in plan.events:
        await calls.do(_record(api, namespace, event_document(pool, observed.pool.uid, event)))


async def _record(api: Api, namespace: str, event: Document) -> None:
    """Write an event. A refusal is logged only, since a namespace that is being deleted takes no events."""
    try:
        await api.create(kinds.EVENT, namespace, event)
    except ApiError as error:
        LOG.warning("the event %s is refused: %s", event["reason"], error)


async def _set_finalizer(api: Api, pool: AgentPool, *, present: bool) -> bool:
    """Add or remove the operator's finalizer, against the version that was read; return whether that was needed."""
    namespace, name = pool.metadata.namespace, pool.metadata.name
    live = await api.get(kinds.POOL, namespace, name)
    if live is None:
        return False
    metadata = live["metadata"]
    now = metadata.get("finalizers") or []
    others = [finalizer for finalizer in now if finalizer != names.FINALIZER]
    wanted = [*others, names.FINALIZER] if present else others
    if wanted == now:
        return False
    body = {"metadata": {"finalizers": wanted or None, "resourceVersion": metadata["resourceVersion"]}}
    await api.patch(kinds.POOL, namespace, name, body)
    return True


def _resize(resize: Resize) -> list[dict[str, Any]]:
    """A JSON patch, since the list of groups is atomic: an apply of one group would take all of them from KubeRay."""
    group = f"/spec/workerGroupSpecs/{resize.group.index}"
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": f"{group}/groupName", "value": resize.group.name},
        {"op": "replace", "path": f"{group}/replicas", "value": resize.pods},
    ]
    if resize.remove:
        victims = {"workersToDelete": list(resize.remove)}
        patch.append({"op": "add", "path": f"{group}/scaleStrategy", "value": victims})
    patch += [{"op": "add", "path": path, "value": value} for path, value in (resize.rewrite or {}).items()]
    return patch


def event_document(pool: AgentPool, uid: str, event: Event) -> Document:
    """Return the Kubernetes event about the pool, as it is created."""
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
