"""Brings one pool a step nearer to what it should be: read, plan, do. Holds no memory of pools but when they were
counted last."""

import logging
import time
from dataclasses import replace

from roost_operator.api.spec import AgentPool
from roost_operator.api.stored import StoredPool, read_pool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.cache import Reader
from roost_operator.kubernetes.execute import ChildRefusedError, execute, tell
from roost_operator.kubernetes.gather import gather
from roost_operator.kubernetes.metrics import Metrics, Result
from roost_operator.kubernetes.pool_secrets import pool_secrets
from roost_operator.kubernetes.pool_store import AWAY, PoolStore, Stores
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import StoreState, Worker
from roost_operator.plan.plan import Plan, plan, refused

LOG = logging.getLogger(__name__)
COUNT_SECONDS = 15.0
"""How often sessions are counted at most."""


class Reconciler:
    """Reconciles any pool; two calls for the same pool must not run at once."""

    def __init__(
        self, api: Api, installation: Installation, metrics: Metrics | None = None, reader: Reader | None = None
    ) -> None:
        """Writes through `api`; reads from `reader`, by default the API server itself."""
        self._api, self._installation = api, installation
        self._reader: Reader = reader or api
        self._metrics = metrics or Metrics()
        self._stores = Stores(installation.store_url)
        self._counted: dict[str, float] = {}

    async def aclose(self) -> None:
        await self._stores.aclose()

    async def reconcile(self, namespace: str, name: str) -> Plan | None:
        """One step; None when the pool is gone. Raises ApiError, StoreUnavailableError."""
        with self._metrics.reconciling() as told:
            raw = await self._reader.get(kinds.POOL, namespace, name)
            if raw is None:
                self._counted.pop(f"{namespace}/{name}", None)
                told(Result.ABSENT)
                return None
            stored = read_pool(raw)
            made, calls = await self._step(stored, raw)
            told(Result.UNREADABLE if stored.unreadable else Result.CHANGED if calls else Result.UNCHANGED)
        return made

    async def _step(self, stored: StoredPool, raw: Document) -> tuple[Plan, int]:
        pool = stored.pool
        secrets = await pool_secrets(self._reader, pool, self._installation)
        async with self._stores.opened(secrets.store_url) as store:
            away = (StoreState(problem=secrets.problem), tuple[Worker, ...]())
            seen_store = away if secrets.problem else await store.observe(pool.pool)
            seen = await gather(
                self._reader,
                pool,
                raw,
                now=time.time(),
                store=seen_store,
                sessions=await self._count(store, pool, *seen_store),
                secrets=secrets,
                kuberay=await self._reader.knows(kinds.SERVICE),
                monitors=self._installation.pod_monitors and await self._reader.knows(kinds.MONITOR),
                unreadable=stored.unreadable,
            )
            made = plan(pool, self._installation, seen)
            try:
                calls = await execute(self._api, store, pool, made, seen)
            except ChildRefusedError as error:
                told = replace(seen, refused=str(error))
                await tell(self._api, pool, refused(pool, told), told)
                raise
        self._metrics.changed(calls)
        if calls:
            LOG.info("%s: %s, %d calls", pool.pool, made.stage.value, calls)
        return made, calls

    async def _count(
        self, store: PoolStore, pool: AgentPool, seen: StoreState, workers: tuple[Worker, ...]
    ) -> tuple[int, int, int] | None:
        if seen.problem or time.monotonic() - self._counted.get(pool.pool, -COUNT_SECONDS) < COUNT_SECONDS:
            return None
        self._counted[pool.pool] = time.monotonic()
        try:
            return await store.sessions(pool.pool, workers)
        except AWAY:
            return None
