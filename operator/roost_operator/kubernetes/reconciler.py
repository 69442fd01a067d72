"""Brings one pool a step nearer to what it should be: read, plan, do. Holds no memory of pools but when they were
counted last."""

import logging
import time

from pydantic import ValidationError

from roost_operator.api.problems import problems
from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.execute import Reached, execute
from roost_operator.kubernetes.gather import gather, store_url
from roost_operator.kubernetes.metrics import Metrics
from roost_operator.kubernetes.pool_store import AWAY, PoolStore, opened
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Store, Worker
from roost_operator.plan.plan import Plan, plan

LOG = logging.getLogger(__name__)
COUNT_SECONDS = 15.0
"""How often sessions are counted at most."""


class Reconciler:
    """Reconciles any pool; two calls for the same pool must not run at once."""

    def __init__(self, api: Api, installation: Installation, metrics: Metrics | None = None) -> None:
        self._api, self._installation = api, installation
        self._metrics = metrics or Metrics()
        self._counted: dict[str, float] = {}
        self.reached: Reached = lambda point: None

    async def reconcile(self, namespace: str, name: str) -> Plan | None:
        """One step; None when the pool is gone or cannot be read. Raises ApiError, StoreUnavailableError."""
        raw = await self._api.get(kinds.POOL, namespace, name)
        if raw is None:
            self._counted.pop(f"{namespace}/{name}", None)
            return None
        pool = read_pool(raw)
        if pool is None:
            return None
        with self._metrics.reconciling():
            return await self._step(pool, raw)

    async def _step(self, pool: AgentPool, raw: Document) -> Plan:
        url, missing = await store_url(self._api, pool, self._installation)
        async with opened(url) as store:
            seen_store = await store.observe(pool.pool)
            seen = await gather(
                self._api,
                pool,
                raw,
                self._installation,
                now=time.time(),
                store=seen_store,
                sessions=await self._count(store, pool, *seen_store),
                missing=missing,
                kuberay=await self._api.knows(kinds.SERVICE),
                monitors=self._installation.pod_monitors and await self._api.knows(kinds.MONITOR),
            )
            made = plan(pool, self._installation, seen)
            calls = await execute(self._api, store, pool, made, seen, self.reached)
        self._metrics.changed(calls)
        if calls:
            LOG.info("%s: %s, %d calls", pool.pool, made.step.value, calls)
        return made

    async def _count(
        self, store: PoolStore, pool: AgentPool, seen: Store, workers: tuple[Worker, ...]
    ) -> tuple[int, int, int] | None:
        if seen.problem or time.monotonic() - self._counted.get(pool.pool, -COUNT_SECONDS) < COUNT_SECONDS:
            return None
        self._counted[pool.pool] = time.monotonic()
        try:
            return await store.sessions(pool.pool, workers)
        except AWAY:
            return None


def read_pool(raw: Document) -> AgentPool | None:
    """The typed pool; None, with a line in the log, for one that was stored by another version of the CRD."""
    metadata = {name: raw["metadata"].get(name) or {} for name in ("labels", "annotations")}
    named = {"name": raw["metadata"]["name"], "namespace": raw["metadata"]["namespace"]}
    document = {name: raw[name] for name in ("apiVersion", "kind", "spec")}
    try:
        return AgentPool.model_validate({**document, "metadata": {**metadata, **named}})
    except ValidationError as error:
        found = "; ".join(str(problem) for problem in problems(error, AgentPool))
        LOG.error("%s/%s cannot be read: %s", named["namespace"], named["name"], found)
        return None
