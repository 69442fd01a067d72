"""The whole life of a pool, by the operator's process with the rights of the chart and no more, in a cluster that is
played: once undisturbed, and once with an operator that is killed after every single call that changes anything.
"""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ApiServer
from built_binaries import kuberay_definitions
from operator_process import WAIT_SECONDS, OperatorProcess, Start, chart_rights, tail, until
from played_cluster import PlayedCluster, create_pool
from redis_servers import RedisServer
from roost.fault_points import DIRECTORY_VARIABLE, OPERATOR_POINTS
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.plan import names

ROOT = Path(__file__).parents[2]
NAME = "dummy"
CHANGED_BY_OTHERS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")
CHILDREN = (kinds.SERVICE, kinds.CLUSTER, kinds.SECRET, kinds.ACCOUNT, kinds.POLICY, kinds.BUDGET, kinds.MONITOR)
PHASES = ("made", "two", "one", "upgraded", "suspended", "resumed", "deleted")
STILL_SECONDS, LIFE_SECONDS = 1.5, 240.0


@dataclass
class Life:
    """One pool from its beginning to its end."""

    api: Api
    cluster: PlayedCluster
    redis: RedisServer
    namespace: str
    operator: Callable[[], OperatorProcess]
    """The one that runs now, for its log."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What there was after each phase."""

    async def live(self) -> None:
        await self.phase("made", self.ready(1))
        await self.phase("two", self.ready(2), workers={"replicas": 2})
        await self.phase("one", self.ready(1), workers={"replicas": 1})
        other = {"replicas": 1, "template": {"metadata": {"labels": {"a": "b"}}}}
        await self.phase("upgraded", self.ready(1), workers=other)
        await self.phase("suspended", lambda pool: reason(pool) == "Suspended", workers=other, suspend=True)
        await self.phase("resumed", self.ready(1), workers=other)
        await self.api._call("DELETE", kinds.POOL.path(self.namespace, NAME))  # as kubectl does, not its children first
        await self.wait("deleted", lambda pool: pool is None)

    def ready(self, workers: int) -> Callable[[Document | None], bool]:
        return lambda pool: reason(pool) == "AllWorkersReady" and (pool or {})["status"]["workers"]["ready"] == workers

    async def phase(self, name: str, holds: Callable[[Document | None], bool], **spec: Any) -> None:
        document = yaml.safe_load((ROOT / "manifests/samples/pool-dummy.yaml").read_text())
        document["spec"] |= {"sessions": {"onPoolDeletion": "Purge"}, "suspend": spec.get("suspend", False)}
        document["spec"]["workers"] |= {**spec.get("workers", {}), "drainTimeoutSeconds": 1}
        await create_pool(self.api, self.namespace, document)
        await self.wait(name, holds)

    async def wait(self, name: str, holds: Callable[[Document | None], bool]) -> None:
        """Until it holds of the pool, is of its present generation, and nothing changes any more for a while."""
        loop = asyncio.get_running_loop()
        end, since, before = loop.time() + LIFE_SECONDS, loop.time(), None
        while True:
            await self.cluster.play(self.namespace, NAME)
            now = await self.everything()
            pool = await self.api.get(kinds.POOL, self.namespace, NAME)
            if now != before or not holds(pool) or (pool is not None and not observed(pool)):
                since, before = loop.time(), now
            if loop.time() - since > STILL_SECONDS:
                self.seen[name] = now
                return
            if loop.time() > end:
                raise AssertionError(f"{name}: {json.dumps(pool)[:3000]}\n{tail(self.operator().log)}")
            await asyncio.sleep(0.1)

    async def everything(self) -> Any:
        """All that the operator makes, without what another run has to have otherwise."""
        pool = await self.api.get(kinds.POOL, self.namespace, NAME)
        children = {
            kind.kind: [normal(item) for item in await self.api.select(kind, self.namespace)] for kind in CHILDREN
        }
        pods = await self.api.select(kinds.POD, self.namespace)
        labels = sorted(json.dumps(pod["metadata"]["labels"], sort_keys=True) for pod in pods)
        return {
            "pool": pool and normal(pool),
            **children,
            "pods": labels,
            "store": await asyncio.to_thread(self.stored),
        }

    def stored(self) -> Any:
        prefix = f"roost:{{{self.namespace}/{NAME}}}"
        with self.redis.client() as client:
            live = [worker.decode() for worker in client.zrange(f"{prefix}:w", 0, -1)]
            drains = sum(client.exists(f"{prefix}:w:{worker}:drain") for worker in live)
            document = client.get(f"{prefix}:pool")
            named = f"{self.namespace}/{NAME}".encode() in client.smembers("roost:pools")
        return {"document": document and json.loads(document), "named": named, "drains": drains}


def reason(pool: Document | None) -> str:
    conditions = ((pool or {}).get("status") or {}).get("conditions") or ()
    return next((str(condition["reason"]) for condition in conditions if condition["type"] == "Ready"), "")


def observed(pool: Document) -> bool:
    return bool(pool["status"].get("observedGeneration") == pool["metadata"]["generation"])


def normal(document: Document) -> Document:
    """Without identities and times. The names of pods to delete differ, their number does not."""
    metadata = {key: value for key, value in document["metadata"].items() if key not in CHANGED_BY_OTHERS}
    notes = {key: value for key, value in metadata.pop("annotations", {}).items() if key != names.APPLIED}
    text = json.dumps({**document, "metadata": {**metadata, "notes": notes}})
    normalized: Document = json.loads(text, object_hook=_timeless)
    return normalized


def _timeless(value: dict[str, Any]) -> dict[str, Any]:
    kept = {key: field for key, field in value.items() if key not in ("lastTransitionTime", "deletionTimestamp")}
    if "workersToDelete" in kept:
        kept["workersToDelete"] = len(kept["workersToDelete"])
    return kept


@pytest.fixture
async def life(api_server: ApiServer, redis_server: RedisServer, namespace: str) -> AsyncIterator[Life]:
    if kuberay_definitions() is None:
        pytest.skip("no KubeRay definitions; run `make binaries`")
    api = await Api.connect(kubeconfig=api_server.kubeconfig())
    cluster = PlayedCluster(api, redis_server.url)
    yield Life(api, cluster, redis_server, namespace, lambda: pytest.fail("no operator"))
    await cluster.aclose()
    await api.aclose()


def used(events: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Group, resource and verb of what was called and allowed. An apply that makes an object needs the right to create
    it, too."""
    rights = set()
    for event in events:
        what = event.get("objectRef")
        if what is None:
            continue  # discovery, which everybody may read
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        verbs = {event["verb"]}
        if event["verb"] == "patch" and event["responseStatus"].get("code") == 201:
            verbs.add("create")
        rights |= {(what.get("apiGroup", ""), resource, verb) for verb in verbs}
    return rights


def changes(event: dict[str, Any], namespace: str) -> bool:
    """Whether a request changes something of the namespace, the operators' own lease apart."""
    what = event.get("objectRef") or {}
    ours = what.get("namespace") == namespace and what.get("resource") != "leases"
    return ours and event["verb"] in ("create", "update", "patch", "delete")


def granted(namespace: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for role in chart_rights("operator", namespace)
        for rule in role.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


ASKED_BY_ADMISSION = {("roost.dev", "agentpools/finalizers", "update")} | {
    (kind.group, kind.plural, "delete") for kind in kinds.CHILDREN.values() if kind != kinds.SERVICE
}
"""Asked for by an admission plugin, which the API server here has: the first when a child's owner reference blocks
deletion, the others when a pool takes up what a former one left. No request shows them;
`test_owner_references_need_their_right` and `test_what_a_pool_that_was_deleted_as_an_orphan_left_is_taken_up` do."""


async def test_a_killed_operator_converges_to_the_same_and_the_chart_grants_what_is_used(
    life: Life, operators: Start, api_server: ApiServer, tmp_path: Path
) -> None:
    """The same life twice. In the second one no operator makes more than one call that changes anything."""
    settings, before = {"ROOST_POD_MONITORS": "true"}, len(api_server.requests("operator"))
    operator = operators("undisturbed", environment=settings)
    life.operator = lambda: operator
    await life.live()
    operator.send(signal.SIGTERM)
    await until("the operator ends", lambda: operator.returncode() == 0, operator)
    events = api_server.requests("operator")[before:]
    assert [event["requestURI"] for event in events if event["responseStatus"].get("code") in (401, 403)] == []
    calls = sum(changes(event, life.namespace) for event in events)
    assert granted(life.namespace) - used(events) == ASKED_BY_ADMISSION
    assert used(events) - granted(life.namespace) == set()
    assert told_twice(api_server, life.namespace) == []
    expected, life.seen = life.seen, {}
    assert tuple(expected) == PHASES
    point = tmp_path / OPERATOR_POINTS[0]
    settings[DIRECTORY_VARIABLE] = str(tmp_path)
    kills = 0

    async def keep_killing() -> None:
        nonlocal operator, kills
        while True:
            point.write_text("kill")
            operator = operators("killed", environment=settings)
            while operator.returncode() is None:  # noqa: ASYNC110  it kills itself
                await asyncio.sleep(0.02)
            assert operator.returncode() == -9, tail(operator.log)
            kills += 1

    killing = asyncio.create_task(keep_killing())
    living = asyncio.create_task(life.live())
    await asyncio.wait((killing, living), return_when=asyncio.FIRST_COMPLETED)
    killing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await killing
    await living
    assert kills >= calls / 2, f"{kills} operators were killed, an undisturbed one makes {calls} calls"
    for phase in PHASES:
        assert life.seen[phase] == expected[phase], phase


def told_twice(server: ApiServer, namespace: str) -> list[str]:
    """Events that say the same as the one before: no transition."""
    events = json.loads(server.kubectl("get", "events", "-n", namespace, "-o", "json"))["items"]
    ours = [event for event in events if event.get("reportingComponent") == names.FIELD_MANAGER]
    ours.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
    said = [(event["reason"], event["message"]) for event in ours]
    assert len(said) >= len(PHASES)
    assert Counter(reason for reason, _ in said)["AllWorkersReady"] >= 3
    return [str(message) for message, before in zip(said[1:], said, strict=False) if message == before]


async def test_owner_references_need_their_right(life: Life, api_server: ApiServer) -> None:
    """Without the one right that no request shows, children cannot be made where that admission plugin is on."""
    rights = chart_rights("operator", life.namespace)
    for role in rights:
        role["rules"] = [rule for rule in role.get("rules", ()) if rule["resources"] != ["agentpools/finalizers"]]
        if not role["rules"]:
            del role["rules"]
    await create_pool(
        life.api, life.namespace, yaml.safe_load((ROOT / "manifests/samples/pool-dummy.yaml").read_text())
    )
    owner = await life.api.get(kinds.POOL, life.namespace, NAME)
    assert owner is not None
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": NAME,
        "uid": owner["metadata"]["uid"],
    }
    metadata = {
        "name": "x",
        "namespace": life.namespace,
        "ownerReferences": [{**reference, "blockOwnerDeletion": True}],
    }
    child = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    api = await Api.connect("refused", kubeconfig=api_server.kubeconfig("operator"))
    try:
        api_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(rights))
        assert "cannot set blockOwnerDeletion" in await refused(api, kinds.ACCOUNT, child)
        api_server.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            "-",
            stdin=yaml.safe_dump_all(chart_rights("operator", life.namespace)),
        )
        await allowed(api, kinds.ACCOUNT, child)
    finally:
        await api.aclose()


async def refused(api: Api, kind: Kind, child: Document) -> str:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:  # the API server takes a moment to hear of rights that changed
            try:
                await api.apply(kind, child)
            except ApiError as error:
                return str(error)


async def allowed(api: Api, kind: Kind, child: Document) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(ApiError):
                await api.apply(kind, child)
                return
