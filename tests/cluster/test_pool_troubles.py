"""A pool that cannot run, for one reason after the other, on the real scheduler, kubelet, KubeRay and Serve: each is
told within 30 s, and forgotten once it is mended. All but the image is mended without any change of the pool.

The first fact that holds is told, so that one pool can have all troubles at once, and what is mended uncovers the next.
Its 30 s begin with what the test does. Those of the model begin when KubeRay's RayService shows that a worker could not
start: for that a Ray cluster must have been started, which takes what it takes.
"""

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub_folder import write_hub_folder
from roost import user
from roost_cluster.layout import NODE
from roost_pool import manifests
from roost_pool.waiting import until, until_none
from roost_pool.world import NAMESPACE, RELEASE, START_SECONDS, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SAMPLE = Path(__file__).parents[2] / "manifests/samples/pool-dummy.yaml"
NAME, SECRET = "trouble", "trouble-store"
GPU = "nvidia.com/gpu"
NO_IMAGE = "127.0.0.1:1/nobody/none:1"
NOBODY = "redis://127.0.0.1:1"
"""A Redis' URL at which nobody listens."""
WEIGHTS = "/weights"
TOLD_SECONDS = 30.0


def pool(weights: Path, image: str | None = None) -> manifests.Manifest:
    """A pool with a store of its own, whose worker wants a GPU, and a model that is a folder of the node."""
    document: manifests.Manifest = yaml.safe_load(SAMPLE.read_text())
    template = manifests.template()
    template["spec"]["volumes"].append({"name": "weights", "hostPath": {"path": str(weights), "type": "Directory"}})
    worker = template["spec"]["containers"][0]
    worker["volumeMounts"].append({"name": "weights", "mountPath": WEIGHTS, "readOnly": True})
    worker["resources"]["limits"][GPU] = "1"
    if image is not None:
        worker |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    document["metadata"]["name"] = NAME
    document["spec"]["models"][0]["source"] = f"file://{WEIGHTS}/late"
    document["spec"]["workers"]["template"] = template
    document["spec"] |= {"store": {"urlSecretRef": {"name": SECRET}}, "sessions": {"onPoolDeletion": "Purge"}}
    return document


def secret(url: str) -> manifests.Manifest:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"url": url}}


async def gpus(world: World, count: int) -> None:
    """Gives the node GPUs, as far as the scheduler knows, or takes them away."""
    value = str(count) if count else None
    patch = {"status": {part: {GPU: value} for part in ("capacity", "allocatable")}}
    await world.patch(f"node/{NODE}", patch, "--subresource=status")


@pytest.fixture
async def weights(world: World) -> AsyncIterator[Path]:
    """A folder of the node for models; at the end nothing is left of the pool."""
    assert world.cluster.layout is not None
    folder = world.cluster.layout.volumes / f"{NAMESPACE}-weights"
    folder.mkdir()
    yield folder
    await world.kubectl("delete", "agentpool", NAME, "--ignore-not-found", "--timeout=90s")
    await world.kubectl("delete", "secret", SECRET, "--ignore-not-found")
    await gpus(world, 0)

    async def pods() -> list[str]:
        return (await world.kubectl("get", "pods", f"--selector=roost.dev/pool={NAME}", "--output=name")).split()

    await until_none("pods of the pool", pods, 90)
    shutil.rmtree(folder)


async def told(world: World, reason: str) -> str:
    """Waits until the pool says so; returns its message."""
    begun = time.monotonic()
    message = ""

    async def says() -> bool:
        """Takes the message from the status that gives the reason: the next one may give another."""
        nonlocal message
        document = await world.get("agentpool", NAME)
        conditions = (document.get("status") or {}).get("conditions", ())
        generation = document["metadata"]["generation"]
        present = {each["type"]: each for each in conditions if each["observedGeneration"] == generation}
        message = present["Ready"]["message"] if "Ready" in present else ""
        statuses = {kind: (each["status"], each["reason"]) for kind, each in present.items()}
        return (statuses.get("Ready"), statuses.get("Degraded")) == (("False", reason), ("True", reason))

    await until(f"the pool to tell of {reason}", says, TOLD_SECONDS)
    print(f"{time.monotonic() - begun:5.1f} s until {reason}")
    return message


async def serve_says(world: World) -> list[str]:
    """What KubeRay's RayService says of deployments."""
    status = (await world.get("rayservice", NAME)).get("status") or {}
    parts = [status.get(part) or {} for part in ("pendingServiceStatus", "activeServiceStatus")]
    applications = [status for part in parts for status in (part.get("applicationStatuses") or {}).values()]
    deployments: list[dict[str, Any]] = [
        status for application in applications for status in (application.get("serveDeploymentStatuses") or {}).values()
    ]
    return [str(deployment.get("message") or "") for deployment in deployments]


async def test_each_trouble_is_told_in_time_and_forgotten_when_mended(
    world: World, weights: Path, tmp_path: Path
) -> None:
    await world.ready()

    async def alone() -> bool:
        """Pods of a cluster that is being replaced would take the CPUs that this pool's head asks for."""
        return len((await world.get("rayclusters"))["items"]) == 1

    await until("former clusters of the other pool to go", alone, START_SECONDS)
    await world.apply(pool(weights, image=NO_IMAGE))
    assert f"Secret {SECRET}, key url" in await told(world, "SecretMissing")
    assert not await world.exists(f"rayservice/{NAME}")

    await world.apply(secret(NOBODY))
    assert "127.0.0.1:1" in await told(world, "StoreUnavailable")
    await world.apply(secret(await world.secret(f"{RELEASE}-store", "operator-url")))
    assert NO_IMAGE in await told(world, "ImageUnavailable")
    await world.apply(pool(weights))
    assert f"Insufficient {GPU}" in await told(world, "Unschedulable")

    changes = (await world.get("agentpool", NAME))["metadata"]["generation"]
    await gpus(world, 1)

    async def no_worker_starts() -> bool:
        return any("ConvertError" in text for text in await serve_says(world))

    await until("Serve to tell that no worker can start", no_worker_starts, START_SECONDS)
    assert f"{WEIGHTS}/late does not exist" in await told(world, "ModelUnavailable")
    write_hub_folder(weights / "coming", tmp_path)
    (weights / "coming").rename(weights / "late")
    begun = time.monotonic()
    await world.ready(NAME)
    print(f"{time.monotonic() - begun:5.1f} s until AllWorkersReady")
    conditions = await world.conditions(NAME)
    assert (conditions["Available"], conditions["Degraded"]) == ("True WorkersReady", "False AsExpected")
    assert (await world.get("agentpool", NAME))["metadata"]["generation"] == changes
    async with await world.connect(pool=f"{NAMESPACE}/{NAME}") as client:
        session = await client.open(role="agent")
        assert (await session.run([user("Are you there?")], max_tokens=4)).committed.index == 0
