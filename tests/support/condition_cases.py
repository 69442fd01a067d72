"""Pools that cannot run, each for a reason of its own, and how each is mended: played on a real API server, in the
words in which the kubelet, the scheduler, KubeRay 1.6 and Serve 2.60 tell of it."""

import time
from collections.abc import Awaitable, Callable

from played_place import Place
from redis_servers import DURABLE, RedisServer
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Document
from roost_operator.plan import names
from silent_server import silent_server

Case = Callable[[Place], Awaitable[None]]
SERVE_SAYS = """A replica failed to start with exception. Retrying 999999 more time(s). Error:
Traceback (most recent call last):
  File "/app/ray/serve/_private/deployment_state.py", line 2021, in check_ready
    ) = ray.get(self._ready_obj_ref)
ray.exceptions.RayTaskError(RuntimeError): ray::ServeReplica:p:worker.initialize_and_get_metadata() (pid=9)
  File "/app/roost_worker/convert/fetch.py", line 39, in _local
    raise ConvertError(f"{source}: {path} does not exist")
roost_worker.convert.errors.ConvertError: file:///models/none: /models/none does not exist
"""


def waiting(reason: str, message: str, container: str = names.WORKER) -> Document:
    """A container that does not start, as the kubelet tells it."""
    return {
        "name": container,
        "image": "none",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }


async def missing_image(place: Place) -> None:
    await place.pool("image")
    await place.cluster("image")
    text = 'Back-off pulling image "ghcr.io/nobody/none:1": not found'
    init = waiting("ImagePullBackOff", text, "wait-gcs-ready")
    pod = await place.pod("image", {"phase": "Pending", "initContainerStatuses": [init]})
    condition = await place.told("image", "ImageUnavailable")
    assert "nobody/none:1" in condition["message"]
    await place.told("image", "ImageUnavailable", kind="Degraded")
    await place.mends("image", pod)


async def missing_image_of_the_head(place: Place) -> None:
    await place.pool("head")
    await place.cluster("head")
    head = waiting("ErrImagePull", "not found", names.HEAD)
    pod = await place.pod("head", {"phase": "Pending", "containerStatuses": [head]}, names.HEAD)
    assert pod in (await place.told("head", "ImageUnavailable"))["message"]
    await place.api.delete(kinds.POD, place.namespace, pod)
    await place.mends("head")


async def more_gpus_than_any_node_has(place: Place) -> None:
    await place.pool("gpus")
    await place.cluster("gpus")
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    pod = await place.pod("gpus", {"phase": "Pending", "conditions": [condition]})
    assert "Insufficient nvidia.com/gpu" in (await place.told("gpus", "Unschedulable"))["message"]
    await place.mends("gpus", pod)


async def model_that_is_not_there(place: Place) -> None:
    await place.pool("model")
    await place.cluster("model")
    worker = {"status": "UPDATING", "message": SERVE_SAYS}
    await place.service_says("model", {"model": {"status": "DEPLOYING", "serveDeploymentStatuses": {"worker": worker}}})
    message = (await place.told("model", "ModelUnavailable"))["message"]
    assert message.startswith("file:///models/none: /models/none does not exist; ")
    worker = {"status": "HEALTHY", "message": ""}
    await place.service_says("model", {"model": {"status": "RUNNING", "serveDeploymentStatuses": {"worker": worker}}})
    await place.mends("model")


async def crashing_container(place: Place) -> None:
    await place.pool("crash")
    await place.cluster("crash")
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": None, "finishedAt": None}}
    status = waiting("CrashLoopBackOff", "back-off 10s restarting failed container")
    pod = await place.pod("crash", {"phase": "Running", "containerStatuses": [{**status, "lastState": ended}]})
    assert "OOMKilled" in (await place.told("crash", "WorkerFails"))["message"]
    await place.mends("crash", pod)


async def silent_kuberay(place: Place) -> None:
    await place.pool("silent")
    await place.told("silent", "KubeRaySilent")
    await place.cluster("silent")
    await place.mends("silent")


async def missing_secrets(place: Place) -> None:
    """The hub's token, and one that only the pod template names."""
    container = {"name": "worker", "envFrom": [{"secretRef": {"name": "proxy"}}]}
    model = {"name": "m", "source": "hf://org/name", "contextTokens": 512, "tokenSecretRef": {"name": "hub"}}
    workers = {"replicas": 1, "template": {"spec": {"containers": [container]}}}
    await place.pool("secrets", models=[model], workers=workers)
    message = (await place.told("secrets", "SecretMissing"))["message"]
    assert "Secret hub, key token, Secret proxy" in message
    assert await place.api.get(kinds.SERVICE, place.namespace, "secrets") is None
    await place.secret("hub", token="x")
    await place.secret("proxy", HTTPS_PROXY="x")
    await place.cluster("secrets")
    await place.mends("secrets")


async def unreachable_store(place: Place) -> None:
    """A port on which nobody listens; then a Redis does."""
    with RedisServer() as server:
        server.kill()
        await place.secret("store", url=server.url)
        await place.pool("store", store={"urlSecretRef": {"name": "store"}})
        await place.told("store", "StoreUnavailable")
        server.start()
        await place.cluster("store")
        await place.mends("store", store_url=server.url)
        await place.api.delete(kinds.POOL, place.namespace, "store")


async def silent_store(place: Place) -> None:
    """Somebody takes the connection and never answers."""
    async with silent_server() as port:
        await place.secret("mute", url=f"redis://127.0.0.1:{port}")
        await place.pool("mute", store={"urlSecretRef": {"name": "mute"}})
        await place.told("mute", "StoreUnavailable")


async def read_only_store(place: Place) -> None:
    """A replica, which is promoted."""
    with RedisServer() as server, server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await place.secret("replica", url=server.url)
        await place.pool("replica", store={"urlSecretRef": {"name": "replica"}})
        message = (await place.told("replica", "StoreUnavailable"))["message"]
        assert "refuses to write: it is a read-only replica" in message
        client.execute_command("REPLICAOF", "NO", "ONE")
        await place.cluster("replica")
        await place.mends("replica", store_url=server.url)
        await place.api.delete(kinds.POOL, place.namespace, "replica")


async def secret_without_a_url(place: Place) -> None:
    await place.secret("odd", url="my redis")
    await place.pool("odd", store={"urlSecretRef": {"name": "odd"}})
    message = (await place.told("odd", "StoreUnavailable"))["message"]
    assert "Secret odd, key url: it is not a URL of Redis; write redis://user:password@host:6379" in message
    assert "my redis" not in message


async def store_without_persistence(place: Place) -> None:
    with RedisServer({"appendonly": "no"}) as server:
        await place.secret("weak", url=server.url)
        await place.pool("weak", store={"urlSecretRef": {"name": "weak"}})
        condition = await place.told("weak", "WeakDurability", kind="Degraded")
        assert "set appendonly yes" in condition["message"]
        with server.client() as client:
            for name, value in DURABLE.items():
                client.config_set(name, value)
        await place.cluster("weak")
        await place.mends("weak", store_url=server.url)
        await place.api.delete(kinds.POOL, place.namespace, "weak")


async def refused_template(place: Place) -> None:
    """What the pool's own schema does not know of pods, the RayService's does."""
    broken = {"volumes": [{"name": "models", "hostPath": {"typ": "Directory"}}]}
    await place.pool("refused", workers={"replicas": 1, "template": {"spec": broken}})
    message = (await place.told("refused", "ChildRefused"))["message"]
    assert "RayService refused" in message
    assert "hostPath.typ: field not declared in schema" in message
    broken["volumes"][0]["hostPath"] = {}
    await place.pool("refused", workers={"replicas": 1, "template": {"spec": broken}})
    await place.told("refused", "ChildRefused", says="hostPath.path: Required value")
    broken["volumes"][0]["hostPath"] = {"path": "/models"}
    await place.pool("refused", workers={"replicas": 1, "template": {"spec": broken}})
    await place.cluster("refused")
    await place.mends("refused")


async def forbidden_pods(place: Place) -> None:
    """A quota: KubeRay cannot make the pod, and says so in the RayCluster."""
    await place.pool("quota")
    await place.cluster("quota")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "lastTransitionTime": now}
    failure["message"] = "pods is forbidden: exceeded quota: few"
    await place._status(kinds.CLUSTER, "quota-c", {"conditions": [failure]})
    assert "exceeded quota" in (await place.told("quota", "RayFails"))["message"]
    await place._status(kinds.CLUSTER, "quota-c", {"conditions": []})
    await place.mends("quota")


CASES: tuple[Case, ...] = (
    missing_image,
    missing_image_of_the_head,
    more_gpus_than_any_node_has,
    model_that_is_not_there,
    crashing_container,
    silent_kuberay,
    missing_secrets,
    unreachable_store,
    silent_store,
    read_only_store,
    secret_without_a_url,
    store_without_persistence,
    refused_template,
    forbidden_pods,
)
