"""Brings a pool one step nearer to its spec: read, plan, execute. All it remembers is when the sessions of each pool
were last counted, the own Secrets of each settled pool, and whether KubeRay has a field for Ray's token."""

import logging
import re
import time
from dataclasses import replace

from roost.contract.refused import Refused
from roost.store.link import WritesRefusedError
from roost_operator.api.spec import AgentPool
from roost_operator.api.stored import StoredPool, read_pool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document, Reader
from roost_operator.kubernetes.child_secrets import ChildSecrets
from roost_operator.kubernetes.execute import ChildRefusedError, execute, report
from roost_operator.kubernetes.gather import gather
from roost_operator.kubernetes.metrics import Metrics, Result
from roost_operator.kubernetes.pool_secrets import pool_secrets
from roost_operator.kubernetes.pool_store import AWAY, PoolStore, Stores
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Observed, StoreState, Worker
from roost_operator.plan.plan import Plan, plan, refused
from roost_operator.plan.status import is_settled

LOG = logging.getLogger(__name__)
COUNT_SECONDS = 15.0
"""The sessions of a pool are not counted more often than this."""
_NO_AUTH_OPTIONS = re.compile(r"\.spec\.rayClusterConfig\.authOptions\b[.\w]*: field not declared in schema")
"""How the API server refuses the field of a RayService that an older KubeRay does not have. It may refuse what is in
the field for other reasons, which say nothing of other pools."""


class Reconciler:
    """Reconciles pools. Two calls for the same pool must not run at the same time."""

    def __init__(
        self, api: Api, installation: Installation, metrics: Metrics | None = None, reader: Reader | None = None
    ) -> None:
        """Writes by `api`; reads by `reader`, or by `api` without one."""
        self._api, self._installation = api, installation
        self._reader: Reader = reader or api
        self._metrics = metrics or Metrics()
        self._stores = Stores(installation.store_url)
        self._counted: dict[str, float] = {}
        self._child_secrets: dict[str, ChildSecrets] = {}
        self._token_auth = True  # until the API server refuses the field, since the operator may not read CRDs

    async def aclose(self) -> None:
        await self._stores.aclose()

    async def reconcile(self, namespace: str, name: str) -> Plan | None:
        """Do one step and return its plan, or None when the pool does not exist. Raises ApiError,
        StoreAwayError."""
        with self._metrics.reconciling() as ended:
            raw = await self._reader.get(kinds.POOL, namespace, name)
            if raw is None:
                self._counted.pop(f"{namespace}/{name}", None)
                self._child_secrets.pop(f"{namespace}/{name}", None)
                ended(Result.ABSENT)
                return None
            stored = read_pool(raw)
            planned, calls = await self._step(stored, raw)
            ended(Result.UNREADABLE if stored.unreadable else Result.CHANGED if calls else Result.UNCHANGED)
        return planned

    async def _step(self, stored: StoredPool, raw: Document) -> tuple[Plan, int]:
        pool = stored.pool
        children, generation = self._child_secrets.pop(pool.pool, None), raw["metadata"]["generation"]
        if children is None or children.generation != generation:
            children = ChildSecrets(self._reader, generation)
        secrets = await pool_secrets(self._reader, pool, self._installation)
        async with self._stores.opened(secrets.store_url) as store:
            unknown = (StoreState(problem=secrets.problem), tuple[Worker, ...]())
            observed_store = unknown if secrets.problem else await store.observe(pool.pool)
            observed = await gather(
                children,
                pool,
                raw,
                now=time.time(),
                store=observed_store,
                sessions=await self._count(store, pool, *observed_store),
                secrets=secrets,
                kuberay=await self._reader.knows(kinds.SERVICE),
                token_auth=self._token_auth,
                monitors=self._installation.pod_monitors and await self._reader.knows(kinds.MONITOR),
                unreadable=stored.unreadable,
            )
            planned, calls = await self._execute(store, pool, observed)
        if not calls and is_settled(planned.status):  # after an error, too, they are read again
            self._child_secrets[pool.pool] = children
        self._metrics.changed(calls)
        if calls:
            LOG.info("%s: %s, %d calls", pool.pool, planned.stage.value, calls)
        return planned, calls

    async def _execute(self, store: PoolStore, pool: AgentPool, observed: Observed) -> tuple[Plan, int]:
        """Plan and execute. A store that answers but cannot be written is to the pool as one that does not answer; a
        KubeRay that has no field for Ray's token is used without it."""
        planned = plan(pool, self._installation, observed)
        try:
            return planned, await execute(self._api, store, pool, planned, observed)
        except (WritesRefusedError, Refused) as error:
            if observed.store.problem:
                raise
            problem = replace(observed.store, problem=str(error))
            return await self._execute(store, pool, replace(observed, store=problem))
        except ChildRefusedError as error:
            if observed.ray.token_auth and _NO_AUTH_OPTIONS.search(str(error)):
                LOG.warning(
                    "Ray's processes do not require a token: update KubeRay to 1.6 or newer, then restart: %s", error
                )
                self._token_auth = False
                ray = replace(observed.ray, token_auth=False)
                return await self._execute(store, pool, replace(observed, ray=ray))
            observed = replace(observed, refused=str(error))
            await report(self._api, pool, refused(pool, observed), observed)
            raise

    async def _count(
        self, store: PoolStore, pool: AgentPool, state: StoreState, workers: tuple[Worker, ...]
    ) -> tuple[int, int, int] | None:
        """Return the numbers of hot, warm and cold sessions, or None when it is not yet time, or the store is away."""
        if state.problem or time.monotonic() - self._counted.get(pool.pool, -COUNT_SECONDS) < COUNT_SECONDS:
            return None
        self._counted[pool.pool] = time.monotonic()
        try:
            return await store.sessions(pool.pool, workers)
        except AWAY:
            return None
