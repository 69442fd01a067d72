"""A pool of a sample with real weights: applied, Ready, and used through the gateways' Service with the SDK."""

import pytest
import yaml

from roost import Tier
from roost_cluster import host_python
from roost_cluster.chart_values import difference
from roost_cluster.errors import ClusterError
from roost_cluster.layout import IMAGE
from roost_pool import manifests
from roost_pool.traffic import Traffic
from roost_pool.waiting import until
from roost_pool.world import NAMESPACE, RELEASE, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.smoke
async def test_a_sample_becomes_ready(world: World) -> None:
    sample = yaml.safe_load(manifests.SAMPLE.read_text())
    print("e2e pool:", *difference(sample["spec"], manifests.sample()["spec"]), sep="\n  ")
    await world.ready()
    conditions = await world.conditions()
    assert conditions["Available"] == "True WorkersReady"
    assert conditions["Progressing"] == "False AllWorkersReady"
    assert conditions["Degraded"].startswith("False")


async def test_the_sdk_in_a_pod_finds_the_gateways_by_their_service(world: World) -> None:
    """As users connect from inside: a DNS name that holds every gateway, and the key from its Secret."""
    script = f"""
import asyncio, os
from roost import Client

async def main():
    async with await Client.connect("dns:///{RELEASE}-gateway:7070", api_key=os.environ["KEY"]) as client:
        session = await client.open(system="You are terse.")
        result = await session.run("Name a colour.", max_tokens=8)
        print(session.id, result.usage.output_tokens)
        await session.delete()

asyncio.run(main())
"""
    key = {"secretKeyRef": {"name": f"{RELEASE}-api-keys", "key": "first-key"}}
    container = {
        "name": "client",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [host_python.python(), "-c", script],
        "env": [*host_python.environment(), {"name": "KEY", "valueFrom": key}],
        "volumeMounts": host_python.volume_mounts(),
    }
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": host_python.volumes()}
    await world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec})
    await world.kubectl("wait", "pod/client", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    session, tokens = (await world.kubectl("logs", "client")).split()
    assert session.startswith(f"{world.pool}/")
    assert 0 < int(tokens) <= 8
    await world.kubectl("delete", "pod", "client", "--wait=false")


async def test_rays_dashboard_asks_for_a_token(world: World) -> None:
    """KubeRay has it: by this dashboard it deployed the workers."""
    (head,) = (await world.get("pods", "--selector=ray.io/node-type=head"))["items"]
    dashboard = f"/api/v1/namespaces/{NAMESPACE}/pods/{head['metadata']['name']}:8265/proxy"
    with pytest.raises(ClusterError, match="provide credentials"):  # as kubectl says of a 401
        await world.kubectl("get", "--raw", f"{dashboard}/api/serve/applications/")
    assert await world.secret(f"{manifests.NAME}-worker", "auth_token")


@pytest.mark.smoke
async def test_sessions_step_hold_and_are_rebuilt(world: World, traffic: Traffic) -> None:
    talks = [await traffic.open(role=role) for role in ("planner", "coder")]
    for talk in talks:
        await talk.say("Name a colour.")
    first = talks[0]
    held = await first.session.hold(tool="search", expect_seconds=2.0)
    assert held.hold is not None
    again = await first.say("Name another colour.")
    assert again.cached_tokens > 0
    assert again.reconstructed_tokens == 0
    assert await first.session.evict() > 0
    assert (await first.session.info()).tier is Tier.COLD
    rebuilt = await first.say("And one more.")
    assert rebuilt.cached_tokens == 0
    assert rebuilt.reconstructed_tokens == again.head_length - 1  # the last token is new to any cache

    async def hot() -> bool:
        """A worker tells of its cache with its next lease."""
        return (await first.session.info()).tier is Tier.HOT

    await until("the session to be hot", hot, 20)
    listed = [info.id async for info in traffic.client.sessions()]
    assert listed == [talk.session.id for talk in talks]


async def test_kubectl_shows_the_pool(world: World) -> None:
    async def row() -> dict[str, str]:
        head, line = (await world.kubectl("get", "ap")).splitlines()
        columns = dict(zip(head.split(), line.split(), strict=True))
        return columns if columns["SESSIONS"] == "2" else {}  # they are counted at most every 15 s

    shown = await until("sessions to be counted", row, 40)
    assert (shown["NAME"], shown["READY"], shown["WORKERS"]) == (manifests.NAME, "True", "1")
    status = (await world.get("agentpool", manifests.NAME))["status"]
    assert status["sessions"] == {"hot": 2, "warm": 0, "cold": 0}
    assert status["workers"] == {"desired": 1, "ready": 1, "replicas": 1}
    (worker,) = await world.workers()
    assert status["activeRevision"] == worker.revision
    budget = await world.get("poddisruptionbudget", f"{manifests.NAME}-worker")
    assert budget["status"]["disruptionsAllowed"] == 1, "a node could never be drained"
