"""A pool's deletion, and the wait until nothing that it owned is left."""

from roost_pool.waiting import until
from roost_pool.world import World

OWNED = "rayservices,rayclusters,pods,serviceaccounts,secrets,networkpolicies,poddisruptionbudgets,services"
POOL_LABEL = "roost.dev/pool"


async def deleted(world: World, name: str) -> None:
    """Delete the pool and wait until nothing is left that it owned."""
    await world.kubectl("delete", "agentpool", name, "--timeout=180s", seconds=190)

    async def nothing() -> bool:
        owned = await world.kubectl("get", OWNED, f"--selector={POOL_LABEL}={name}", "--output=name")
        ray = await world.kubectl("get", "pods,services,rayclusters,endpoints", "--output=name")
        return not owned and f"/{name}-" not in ray

    await until("everything that the pool owned to go", nothing, 90)
