"""The operator's reconciliation on a real API server with RBAC and a real Redis; tests play kubelet and KubeRay."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ApiServer, KubectlError
from redis_servers import RedisServer
from roost_operator.api.stored import StoredPool
from roost_operator.kubernetes import pool_store
from roost_operator.kubernetes import reconciler as reconciler_module
from roost_operator.kubernetes.execute import ChildRefusedError
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.plan.plan import Plan, Stage

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "pool-dummy.yaml"
CHILDREN = (
    ("rayservice", "dummy"),
    ("serviceaccount", "dummy-worker"),
    ("secret", "dummy-worker"),
    ("networkpolicy", "dummy-worker"),
    ("networkpolicy", "dummy-head"),
    ("poddisruptionbudget", "dummy-worker"),
)
MUTATING = ("create", "update", "patch", "delete")


async def settle(reconciler: Reconciler, namespace: str) -> Plan:
    """Reconciles until two plans change nothing in the cluster."""
    for _ in range(10):
        planned = await reconciler.reconcile(namespace, "dummy")
        assert planned is not None
        again = await reconciler.reconcile(namespace, "dummy")
        if again is None or (planned.idle and again.idle and planned.stage is again.stage):
            return again or planned
    raise AssertionError(f"does not settle: {planned}")


def condition(pool: dict[str, Any], kind: str) -> tuple[str, str]:
    condition = next(item for item in pool["status"]["conditions"] if item["type"] == kind)
    return condition["status"], condition["reason"]


async def test_a_pool_becomes_its_children(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, redis_server: RedisServer
) -> None:
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    planned = await settle(reconciler, namespace)
    assert planned.stage is Stage.RUN
    uid = prepared.get("ap", "dummy", namespace)["metadata"]["uid"]
    for kind, name in CHILDREN:
        child = prepared.get(kind, name, namespace)
        assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == [uid]
    pool = prepared.get("ap", "dummy", namespace)
    assert condition(pool, "Ready") == ("False", "WorkersStarting")
    assert pool["status"]["observedGeneration"] == 1
    with redis_server.client() as client:
        document = json.loads(client.get(f"roost:{{{namespace}/dummy}}:pool"))
        assert client.smembers("roost:pools") == {f"{namespace}/dummy".encode()}
    assert document["roles"][0]["name"] == "agent"
    assert "Events" in prepared.kubectl("describe", "-n", namespace, "ap/dummy")
    secret = prepared.get("rayservice", "dummy", namespace)["spec"]["serveConfigV2"]
    assert "redis://" not in secret


async def test_an_unchanged_resync_changes_nothing(reconciler: Reconciler, prepared: ApiServer, namespace: str) -> None:
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    before = len(prepared.requests("operator"))
    await reconciler.reconcile(namespace, "dummy")
    after = prepared.requests("operator")[before:]
    assert [event["requestURI"] for event in after if event["verb"] in MUTATING] == []


async def test_sessions_are_told_when_they_change_and_no_more_often_than_every_15_s(
    reconciler: Reconciler,
    prepared: ApiServer,
    namespace: str,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told() -> dict[str, int]:
        return dict(prepared.get("ap", "dummy", namespace)["status"]["sessions"])

    def open_sessions(*sessions: str) -> None:
        with redis_server.client() as client:
            client.zadd(f"roost:{{{namespace}/dummy}}:tenant:t:sessions", dict.fromkeys(sessions, 0))

    monkeypatch.setattr(pool_store, "CENSUS_SECONDS", 0.0)
    open_sessions("s1")
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    assert told() == {"hot": 0, "warm": 0, "cold": 1}
    open_sessions("s2")
    await settle(reconciler, namespace)
    assert told()["cold"] == 1, "counted less than 15 s ago"
    monkeypatch.setattr(reconciler_module, "COUNT_SECONDS", 0.0)
    await settle(reconciler, namespace)
    assert told()["cold"] == 2
    before = prepared.get("ap", "dummy", namespace)["metadata"]["resourceVersion"]
    await settle(reconciler, namespace)
    assert prepared.get("ap", "dummy", namespace)["metadata"]["resourceVersion"] == before


async def test_children_that_go_or_are_edited_come_back(
    reconciler: Reconciler, prepared: ApiServer, namespace: str
) -> None:
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    for kind, name in CHILDREN:
        prepared.kubectl("delete", "-n", namespace, kind, name, "--wait=false")
    await settle(reconciler, namespace)
    for kind, name in CHILDREN:
        assert "deletionTimestamp" not in prepared.get(kind, name, namespace)["metadata"]
    edits = {
        "rayservice/dummy": {"spec": {"rayClusterDeletionDelaySeconds": 77}},
        "networkpolicy/dummy-worker": {"spec": {"ingress": [{}]}},
        "poddisruptionbudget/dummy-worker": {"spec": {"minAvailable": 5}},
        "secret/dummy-worker": {"data": {"pool-secret": "QQ=="}},
        "serviceaccount/dummy-worker": {"metadata": {"labels": {"roost.dev/pool": "other"}}},
    }
    before = {target: json.loads(prepared.kubectl("get", "-n", namespace, target, "-o", "json")) for target in edits}
    for target, edit in edits.items():
        prepared.kubectl("patch", "-n", namespace, target, "--type=merge", "-p", json.dumps(edit))
    await settle(reconciler, namespace)
    for target, was in before.items():
        now = json.loads(prepared.kubectl("get", "-n", namespace, target, "-o", "json"))
        for part in ("spec", "data"):
            assert now.get(part) == was.get(part)
        assert now["metadata"]["labels"] == was["metadata"]["labels"]


FOREIGN = {
    "secret": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dummy-worker"}, "stringData": {"mine": "x"}},
    "serviceaccount": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dummy-worker"}},
    "rayservice": {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "dummy", "labels": {"roost.dev/pool": "dummy"}},
        "spec": {"rayClusterConfig": {"headGroupSpec": {"template": {"spec": {"containers": []}}}}},
    },
}
"""Of somebody else, by the names of the pool's children."""


@pytest.mark.parametrize("kind", FOREIGN)
async def test_an_object_of_somebody_else_stays_as_it_is_with_the_pool_and_without(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, kind: str
) -> None:
    prepared.kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(FOREIGN[kind]))
    name = str(FOREIGN[kind]["metadata"]["name"])
    before = prepared.get(kind, name, namespace)
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    with pytest.raises(ChildRefusedError):
        await settle(reconciler, namespace)
    pool = prepared.get("ap", "dummy", namespace)
    assert condition(pool, "Ready") == ("False", "ChildRefused")
    message = pool["status"]["conditions"][0]["message"]
    wanted = f"{FOREIGN[kind]['kind']} {name} is there and not this pool's: delete it, or give the pool another name"
    assert message.startswith(wanted)
    assert prepared.get(kind, name, namespace) == before
    prepared.kubectl("delete", "-n", namespace, "ap/dummy", "--wait=false")
    for _ in range(100):
        if await reconciler.reconcile(namespace, "dummy") is None:
            break
    assert prepared.get(kind, name, namespace) == before


async def test_the_pool_goes_on_once_a_name_is_free(
    reconciler: Reconciler, prepared: ApiServer, namespace: str
) -> None:
    prepared.kubectl("create", "secret", "generic", "dummy-worker", "-n", namespace, "--from-literal=mine=x")
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    with pytest.raises(ChildRefusedError):
        await settle(reconciler, namespace)
    prepared.kubectl("delete", "secret", "dummy-worker", "-n", namespace)
    assert (await settle(reconciler, namespace)).stage is Stage.RUN
    assert condition(prepared.get("ap", "dummy", namespace), "Ready") == ("False", "WorkersStarting")


async def test_what_a_pool_that_was_deleted_as_an_orphan_left_is_taken_up(
    reconciler: Reconciler, prepared: ApiServer, namespace: str
) -> None:
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    kept = prepared.get("secret", "dummy-worker", namespace)["metadata"]["uid"]
    for kind, name in CHILDREN:
        prepared.kubectl(
            "patch", "-n", namespace, kind, name, "--type=merge", "-p", '{"metadata":{"ownerReferences":null}}'
        )
    await settle(reconciler, namespace)
    pool = prepared.get("ap", "dummy", namespace)["metadata"]["uid"]
    for kind, name in CHILDREN:
        assert [owner["uid"] for owner in prepared.get(kind, name, namespace)["metadata"]["ownerReferences"]] == [pool]
    assert prepared.get("secret", "dummy-worker", namespace)["metadata"]["uid"] == kept


async def test_children_that_are_no_longer_wanted_go_and_nobody_elses(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(reconciler._installation, network_policies=False)
    full = replace(bare, network_policies=True, pod_monitors=True, ray_store_url="redis://ray:secret@redis:6379")
    monkeypatch.setattr(reconciler, "_installation", full)
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    unwanted = ["secret/dummy-head", "podmonitor/dummy-worker", "networkpolicy/dummy-worker"]
    prepared.kubectl("get", "-n", namespace, *unwanted)
    mine = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "dummy-mine", "labels": {"roost.dev/pool": "dummy"}},
    }
    prepared.kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(mine))
    monkeypatch.setattr(reconciler, "_installation", bare)
    await settle(reconciler, namespace)
    prepared.kubectl("wait", "--for=delete", "-n", namespace, *unwanted, "networkpolicy/dummy-head", "--timeout=30s")
    prepared.kubectl("get", "-n", namespace, "secret/dummy-mine", "secret/dummy-worker", "rayservice/dummy")


@pytest.mark.parametrize("sessions", [{"onPoolDeletion": "Keep"}, {"onPoolDeletion": "Purge"}, {"retention": "Purge"}])
async def test_a_deleted_pool_goes_with_all_it_owns(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, redis_server: RedisServer, sessions: dict[str, str]
) -> None:
    document = yaml.safe_load(SAMPLE.read_text())
    document["spec"]["sessions"] = sessions
    prepared.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    await settle(reconciler, namespace)
    assert ("DeprecatedField" in prepared.kubectl("describe", "-n", namespace, "ap/dummy")) == ("retention" in sessions)
    prefix = f"roost:{{{namespace}/dummy}}"
    with redis_server.client() as client:
        client.hset(f"{prefix}:s:01", mapping={"tenant": "t"})
        prepared.kubectl("delete", "-n", namespace, "ap/dummy", "--wait=false")
        for _ in range(100):
            if await reconciler.reconcile(namespace, "dummy") is None:
                break
            await asyncio.sleep(0.1)  # the garbage collector is a process of its own
        assert client.smembers("roost:pools") == set()
        assert client.exists(f"{prefix}:pool") == 0
        assert client.exists(f"{prefix}:s:01") == ("Purge" not in sessions.values())
    with pytest.raises(KubectlError, match="NotFound"):
        prepared.get("ap", "dummy", namespace)
    for kind, name in CHILDREN:
        prepared.kubectl("wait", "--for=delete", "-n", namespace, f"{kind}/{name}", "--timeout=30s")


async def test_a_store_that_is_away_is_told_and_mends(
    prepared: ApiServer, namespace: str, fresh_redis: RedisServer, reconciler: Reconciler
) -> None:
    prepared.kubectl("create", "secret", "generic", "mine", "-n", namespace, f"--from-literal=url={fresh_redis.url}")
    document = yaml.safe_load(SAMPLE.read_text())
    document["spec"]["store"] = {"urlSecretRef": {"name": "mine"}}
    prepared.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    await settle(reconciler, namespace)
    assert condition(prepared.get("ap", "dummy", namespace), "Degraded") == ("False", "AsExpected")
    fresh_redis.kill()
    await settle(reconciler, namespace)
    assert condition(prepared.get("ap", "dummy", namespace), "Ready") == ("False", "StoreUnavailable")
    fresh_redis.start()
    await settle(reconciler, namespace)
    assert condition(prepared.get("ap", "dummy", namespace), "Ready") == ("False", "WorkersStarting")


async def test_a_pool_that_cannot_be_read_says_so_and_can_be_deleted(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was stored before the definition knew better; the one of now lets none in."""
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await settle(reconciler, namespace)
    read = reconciler_module.read_pool

    def read_odd(raw: dict[str, Any]) -> StoredPool:
        return read({**raw, "spec": {**raw["spec"], "models": [{**raw["spec"]["models"][0], "odd": 1}]}})

    monkeypatch.setattr(reconciler_module, "read_pool", read_odd)
    assert (await settle(reconciler, namespace)).stage is Stage.WAIT
    pool = prepared.get("ap", "dummy", namespace)
    assert condition(pool, "Ready") == ("False", "InvalidSpec")
    assert "spec.models[0].odd" in pool["status"]["conditions"][0]["message"]
    prepared.kubectl("delete", "-n", namespace, "ap/dummy", "--wait=false")
    for _ in range(100):
        if await reconciler.reconcile(namespace, "dummy") is None:
            break
        await asyncio.sleep(0.1)
    with pytest.raises(KubectlError, match="NotFound"):
        prepared.get("ap", "dummy", namespace)


async def test_a_missing_secret_is_told_and_mends_and_a_pool_can_be_suspended_without_it(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_store, "GRACE_SECONDS", 0.0)
    document = yaml.safe_load(SAMPLE.read_text())
    document["spec"]["models"][0] |= {"source": "hf://org/name", "tokenSecretRef": {"name": "hub"}}
    prepared.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    planned = await settle(reconciler, namespace)
    assert planned.stage is Stage.WAIT
    assert condition(prepared.get("ap", "dummy", namespace), "Ready") == ("False", "SecretMissing")
    prepared.kubectl("create", "secret", "generic", "hub", "-n", namespace, "--from-literal=token=x")
    assert (await settle(reconciler, namespace)).stage is Stage.RUN
    prepared.kubectl("delete", "secret", "hub", "-n", namespace)
    before = prepared.get("rayservice", "dummy", namespace)["spec"]
    document["spec"]["suspend"] = True
    prepared.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    assert (await settle(reconciler, namespace)).stage is Stage.SUSPEND
    before["rayClusterConfig"]["suspend"] = True
    assert prepared.get("rayservice", "dummy", namespace)["spec"] == before
    calls = len(prepared.requests("operator"))
    await reconciler.reconcile(namespace, "dummy")
    assert [request for request in prepared.requests("operator")[calls:] if request["verb"] in MUTATING] == []
