"""The chart as `helm install` leaves it, before there is a pool: what it says, draws and serves, and its upgrade."""

import asyncio

import pytest
import yaml

from roost_cluster.chart_values import chart_values, difference
from roost_gateway.probe import probe
from roost_pool.world import CHART, RELEASE, World

pytestmark = [pytest.mark.e2e, pytest.mark.smoke, pytest.mark.timeout(300)]
GATEWAY = f"deployment/{RELEASE}-gateway"


async def health(world: World) -> set[str]:
    """What the gateways' pods say of themselves, asked from the host."""
    addresses = [pod["status"]["podIP"] for pod in await world.pods("gateway")]
    return {(await probe(address, 7070))[address] for address in addresses}


async def test_an_installation_serves_nothing_yet_and_keeps_its_secrets_when_it_is_upgraded(world: World) -> None:
    print("e2e values:", *difference(yaml.safe_load((CHART / "values.yaml").read_text()), chart_values()), sep="\n  ")
    assert f"kubectl get secret roost-api-keys -n {world.namespace}" in world.notes
    assert await health(world) == {"NOT_SERVING"}, "there is no worker yet"
    drawn = await world.drawn_secrets()
    assert set(drawn) == {"roost-api-keys", "roost-pool-key", "roost-store"}
    assert "Succeeded" in await asyncio.to_thread(world.helm, "test", RELEASE)

    changed = ("--values", str(world.values), "--set", "gateway.drainSeconds=5")
    await asyncio.to_thread(world.helm, "upgrade", RELEASE, str(CHART), *changed)
    await world.kubectl("rollout", "status", GATEWAY, "--timeout=120s", seconds=130)
    assert await world.drawn_secrets() == drawn
