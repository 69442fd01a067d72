"""How long a pool's own Secrets are remembered: by a clock that the test sets, and on a real API server."""

import json
from collections import Counter
from pathlib import Path

import pytest

from api_server import ApiServer, KubectlError
from played_cluster import PlayedCluster
from pool_world import by_type
from redis_servers import RedisServer
from roost_operator.kubernetes import child_secrets, kinds
from roost_operator.kubernetes.api import Document
from roost_operator.kubernetes.child_secrets import SECRET_SECONDS, ChildSecrets
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.reconciler import Reconciler

SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml"


class PlayedReader:
    """Secrets as they are now, and how often each name was read."""

    def __init__(self) -> None:
        self.objects: dict[str, Document] = {}
        self.reads: Counter[str] = Counter()
        self.seconds = 0.0

    async def knows(self, kind: Kind) -> bool:
        return kind is not kinds.MONITOR

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        self.reads[name] += 1
        return self.objects.get(name)

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        return list(self.objects.values())

    def change(self, name: str, value: str) -> None:
        self.objects[name] = {"metadata": {"name": name, "managedFields": [{}]}, "data": {"key": value}}


def value_of(secret: Document | None) -> str | None:
    return secret["data"]["key"] if secret else None


async def test_a_secret_is_read_again_after_its_time_only() -> None:
    reader = PlayedReader()
    secrets = ChildSecrets(reader, 1, lambda: reader.seconds)
    reader.change("a", "old")
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "old"
    reader.change("a", "new")
    reader.seconds = SECRET_SECONDS - 0.1
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "old"
    assert reader.reads == {"a": 1}
    reader.seconds = SECRET_SECONDS
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "new"
    reader.seconds += SECRET_SECONDS - 0.1
    await secrets.get(kinds.SECRET, "n", "a")
    assert reader.reads == {"a": 2}, "its time counts from the last reading"


async def test_a_secret_that_does_not_exist_is_remembered_too() -> None:
    """The head's Secret of a pool without fault tolerance, which is looked for so that an old one goes."""
    reader = PlayedReader()
    secrets = ChildSecrets(reader, 1, lambda: reader.seconds)
    assert [await secrets.get(kinds.SECRET, "n", name) for name in ("a", "a", "b")] == [None, None, None]
    assert reader.reads == {"a": 1, "b": 1}
    reader.change("a", "made")
    reader.seconds = SECRET_SECONDS
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "made"


async def test_other_kinds_are_read_each_time() -> None:
    reader = PlayedReader()
    secrets = ChildSecrets(reader, 1, lambda: reader.seconds)
    for _ in range(2):
        await secrets.get(kinds.ACCOUNT, "n", "a")
    assert reader.reads == {"a": 2}
    reader.change("a", "x")
    assert await secrets.of_pool(kinds.POD, "n", "p") == list(reader.objects.values())
    assert (await secrets.knows(kinds.POOL), await secrets.knows(kinds.MONITOR)) == (True, False)


async def test_a_settled_pools_secrets_are_read_once_in_a_while_and_mended_then(
    reconciler: Reconciler,
    prepared: ApiServer,
    namespace: str,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def settle() -> None:
        for _ in range(4):
            await reconciler.reconcile(namespace, "dummy")

    def reads() -> int:
        secrets = f"/api/v1/namespaces/{namespace}/secrets/"
        return sum(request["requestURI"].startswith(secrets) for request in prepared.requests("admin"))

    monkeypatch.setattr(child_secrets, "SECRET_SECONDS", 1e9)
    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    cluster = PlayedCluster(reconciler._reader, redis_server.url)
    try:
        await settle()
        for _ in range(10):
            await cluster.play(namespace, "dummy")
            await settle()
    finally:
        await cluster.aclose()
    ready = by_type(prepared.get("ap", "dummy", namespace)["status"]["conditions"])["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "AllWorkersReady")
    before = reads()
    await settle()
    assert reads() == before
    edit = json.dumps({"data": {"pool-secret": "QQ=="}})
    prepared.kubectl("patch", "-n", namespace, "secret/dummy-worker", "--type=merge", "-p", edit)
    monkeypatch.setattr(child_secrets, "SECRET_SECONDS", 0.0)
    await settle()
    assert prepared.get("secret", "dummy-worker", namespace)["data"]["pool-secret"] != "QQ=="
    monkeypatch.setattr(child_secrets, "SECRET_SECONDS", 1e9)
    await settle()
    prepared.kubectl("delete", "-n", namespace, "secret/dummy-worker")
    await settle()
    with pytest.raises(KubectlError, match="NotFound"):
        prepared.get("secret", "dummy-worker", namespace)
    patch = json.dumps({"spec": {"sessions": {"maxTokens": 100}}})
    prepared.kubectl("patch", "-n", namespace, "ap/dummy", "--type=merge", "-p", patch)
    await reconciler.reconcile(namespace, "dummy")
    prepared.get("secret", "dummy-worker", namespace)
