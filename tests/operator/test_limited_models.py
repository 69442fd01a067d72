"""A pool whose model is limited says so: in its conditions and events, in `kubectl get ap` and in `roost up`."""

import io
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from api_server import ApiServer
from leases import lease_of
from played_cluster import lease_at
from pool_world import INSTALLATION, World, by_type, pool
from redis_servers import RedisServer
from roost.contract.model_limits import ModelLimit, describe
from roost.store.keys import PoolKeys
from roost_operator.api.limits import remaining
from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes.pool_store import PoolStore
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.local.commands import print_limits
from roost_operator.plan.conditions import Facts, conditions
from roost_operator.plan.plan import Plan, plan

SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml"
LIMITS = (ModelLimit.THINKING_KEPT.value, "novelty")


def test_the_condition_names_the_limits_and_what_they_mean() -> None:
    limited = by_type(conditions(Facts(1, 1, limits=LIMITS), [], 1, 0.0))["ModelLimited"]
    assert (limited["status"], limited["reason"]) == ("True", "PromptsDiffer")
    assert limited["message"].startswith(f"thinking-kept: {ModelLimit.THINKING_KEPT.meaning}; novelty; see docs/models")


def test_a_limited_model_is_neither_degraded_nor_not_ready() -> None:
    shown = by_type(conditions(Facts(1, 1, limits=LIMITS), [], 1, 0.0))
    assert (shown["Ready"]["status"], shown["Degraded"]["status"]) == ("True", "False")


def test_a_model_without_limits_is_not_limited_and_without_workers_nothing_is_said() -> None:
    assert by_type(conditions(Facts(1, 1, limits=()), [], 1, 0.0))["ModelLimited"]["status"] == "False"
    assert "ModelLimited" not in by_type(conditions(Facts(1, 0), [], 1, 0.0))


def test_a_plan_takes_the_limits_from_the_workers_and_reports_them_once() -> None:
    def reported(planned: Plan) -> list[str]:
        return [event.kind for event in planned.events if event.reason == "PromptsDiffer"]

    world = World()
    world.settle(pool(replicas=2))
    assert by_type(world.observed.pool.status["conditions"])["ModelLimited"]["status"] == "False"
    first, second = world.observed.workers
    workers = (replace(first, limits=LIMITS), replace(second, limits=LIMITS[:1]))
    world.observed = replace(world.observed, workers=workers)
    outcomes = []
    for _ in range(2):
        planned = plan(pool(replicas=2), INSTALLATION, world.observed)
        outcomes.append(reported(planned))
        world.do(planned)
    assert outcomes == [["Warning"], []]
    message = by_type(world.observed.pool.status["conditions"])["ModelLimited"]["message"]
    assert message.count("thinking-kept") == message.count("novelty") == 1


def test_kept_thinking_is_no_limit_of_a_pool_that_drops_it() -> None:
    document = pool().model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"]["models"][0]["thinking"] = "drop"
    assert remaining(pool(), LIMITS) == LIMITS
    assert remaining(AgentPool.model_validate(document), LIMITS) == LIMITS[1:]


async def test_the_operator_reads_limits_from_leases(redis_server: RedisServer) -> None:
    keys = PoolKeys("ns/limited")
    with redis_server.client() as client:
        client.set(keys.lease("w"), lease_of("w", limits=LIMITS).encode())
        client.zadd(keys.workers, {"w": int(time.time() * 1000) + 60_000})
    store = PoolStore(redis_server.url)
    try:
        _, (worker,) = await store.observe("ns/limited")
    finally:
        await store.aclose()
    assert worker.limits == LIMITS


async def test_kubectl_get_shows_that_the_model_is_limited(
    reconciler: Reconciler, prepared: ApiServer, namespace: str, redis_server: RedisServer
) -> None:
    async def shown_as() -> str:
        await reconciler.reconcile(namespace, "dummy")
        head, line = prepared.kubectl("get", "-n", namespace, "ap", "dummy").splitlines()
        return line[head.index("LIMITED") :].split()[0]

    prepared.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await reconciler.reconcile(namespace, "dummy")
    keys = PoolKeys(f"{namespace}/dummy")
    with redis_server.client() as client:
        client.set(keys.lease("w"), lease_at("10.9.0.1", "w", limits=LIMITS).encode())
        client.zadd(keys.workers, {"w": int(time.time() * 1000) + 60_000})
    assert await shown_as() == "True"
    assert describe(LIMITS[0]) in prepared.kubectl("describe", "-n", namespace, "ap/dummy")
    with redis_server.client() as client:
        client.set(keys.lease("w"), lease_at("10.9.0.1", "w").encode())
    assert await shown_as() == "False"


def test_roost_up_prints_each_limit_once() -> None:
    console = Console(file=io.StringIO(), width=40)
    print_limits(console, pool(), [lease_of("w", limits=LIMITS), lease_of("v", limits=("novelty",))])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        f"The model is limited: thinking-kept: {ModelLimit.THINKING_KEPT.meaning}",
        "The model is limited: novelty",
    ]
