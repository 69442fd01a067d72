"""What many pools cost the operator: reconciliations per second, requests of each to the API server, memory and CPU.

Real etcd and kube-apiserver on loopback, whose audit log is the count of requests; the operator is its own process,
with the rights of its ClusterRole and its default periods. KubeRay, kubelet and workers are played
(tests/support/played_cluster.py), then stand still, so that every pool is Ready. Four measurements:

- cold: the operator starts over pools of which nothing exists yet, until each has its children and its status;
- restart: it starts again over pools that all are as they should be, until each was reconciled once;
- resync: nothing changes for some resync periods;
- change: one field of every pool changes (drainTimeoutSeconds, which reaches a child), until every pool has it.

    python tests/benchmarks/bench_operator.py [--pools 200] [--rounds 3] [--quick]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / p) for p in ("tests/support", "tests/cluster", "proto", "gateway", "operator", "worker")]

from figures import emit, machine, spread

from api_server import ApiServer, missing_binaries
from built_binaries import kuberay_definitions
from operator_process import OperatorProcess, grant
from played_cluster import PlayedCluster, create_pool
from redis_servers import RedisServer
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document

NAMESPACE = "benchmark"
RESYNC_SECONDS = 10
MUTATING = ("create", "update", "patch", "delete")
AT_ONCE = 8


class Requests:
    """The operator's requests since the last look, by verb and resource; its Lease's and its watches' apart."""

    def __init__(self, audit: Path) -> None:
        self._file = audit.open()
        self._rest = ""

    def new(self) -> Counter[str]:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        requests: Counter[str] = Counter()
        for line in lines:
            event = json.loads(line)
            if event["user"].get("username") == "operator" and event["stage"] == "ResponseComplete":
                kind = (event.get("objectRef") or {}).get("resource", event["requestURI"])
                if kind != "leases" and event["verb"] != "watch":
                    requests[f"{event['verb']} {kind}"] += 1
        return requests


class Bench:
    """One API server with pools, and an operator that comes and goes."""

    def __init__(self, server: ApiServer, redis: RedisServer, api: Api, pools: int) -> None:
        self.server, self.redis, self.api = server, redis, api
        self.cluster = PlayedCluster(api, redis.url)
        self.names = [f"pool-{number:03}" for number in range(pools)]
        self.requests = Requests(server.audit)
        self.operator: OperatorProcess | None = None

    def start(self) -> OperatorProcess:
        settings = {"ROOST_RESYNC_SECONDS": str(RESYNC_SECONDS), "ROOST_LEASE_SECONDS": "15"}
        self.operator = OperatorProcess(
            self.server, self.redis.url, NAMESPACE, "bench", environment=settings, command=True
        )
        return self.operator

    async def apply(self, drain_seconds: int) -> None:
        """All pools with this drain time."""
        document = yaml.safe_load((ROOT / "manifests/samples/pool-dummy.yaml").read_text())
        document["spec"]["workers"]["drainTimeoutSeconds"] = drain_seconds
        pools = ({**document, "metadata": {"name": name}} for name in self.names)
        await each(pools, lambda pool: create_pool(self.api, NAMESPACE, pool))

    async def play(self) -> None:
        await each(self.names, lambda name: self.cluster.play(NAMESPACE, name))

    async def pools(self) -> list[Document]:
        return await self.api.select(kinds.POOL, NAMESPACE)

    async def until_all(self, holds: Callable[[Document], bool], *, play: bool = False) -> float:
        """Seconds until it holds of every pool."""
        began = time.perf_counter()
        while not all(holds(pool) for pool in await self.pools()):
            if time.perf_counter() - began > 900:
                raise TimeoutError("pools do not get there; see the operator's log")
            await (self.play() if play else asyncio.sleep(0.1))
        return time.perf_counter() - began

    async def until_made(self) -> None:
        """Until every pool has its RayService, which is applied last, and its status."""
        await self.until_all(told)
        while len(await self.api.select(kinds.SERVICE, NAMESPACE)) < len(self.names):  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def quiet(self) -> None:
        """Until the operator has sent no mutating request for a resync period."""
        while True:
            self.requests.new()
            await asyncio.sleep(RESYNC_SECONDS + 2)
            if not mutating(self.requests.new()):
                return


async def each(things: Iterable[Any], do: Callable[[Any], Awaitable[object]]) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(thing: Any) -> None:
        async with places:
            await do(thing)

    await asyncio.gather(*(one(thing) for thing in things))


def mutating(requests: Counter[str]) -> int:
    return sum(count for what, count in requests.items() if what.split()[0] in MUTATING)


def told(pool: Document) -> bool:
    return bool((pool.get("status") or {}).get("conditions"))


def is_ready(pool: Document) -> bool:
    conditions = (pool.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def is_observed(pool: Document) -> bool:
    seen = (pool.get("status") or {}).get("observedGeneration")
    return bool(seen == pool["metadata"]["generation"])


def figures(requests: Counter[str], reconciled: int, seconds: float, cpu: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 2),
        "reconciles": reconciled,
        "reconciles_per_second": round(reconciled / seconds, 1),
        "requests": requests.total(),
        "requests_per_reconcile": round(requests.total() / max(1, reconciled), 2),
        "mutating": mutating(requests),
        "cpu_ms_per_reconcile": round(1000 * cpu / max(1, reconciled), 1),
        "by_kind": dict(requests.most_common()),
    }


async def measured(bench: Bench, operator: OperatorProcess, course: Awaitable[object]) -> dict[str, Any]:
    """Figures of the operator while `course` runs."""
    process = psutil.Process(operator.pid)
    bench.requests.new()
    began, before, used = time.perf_counter(), await reconciled(operator), sum(process.cpu_times()[:2])
    await course
    seconds, cpu = time.perf_counter() - began, sum(process.cpu_times()[:2]) - used
    return figures(bench.requests.new(), await reconciled(operator) - before, seconds, cpu)


async def reconciled(operator: OperatorProcess) -> int:
    """0 until it answers."""
    try:
        return await asyncio.to_thread(operator.reconciled)
    except OSError:
        return 0


async def restart(bench: Bench) -> dict[str, Any]:
    if bench.operator is not None:
        bench.operator.kill()

    async def everyone() -> None:
        while await reconciled(operator) < len(bench.names):  # noqa: ASYNC110  it happens elsewhere
            await asyncio.sleep(0.1)

    operator = bench.start()
    return await measured(bench, operator, everyone())


async def bench(pools: int, rounds: int, server: ApiServer, redis: RedisServer) -> dict[str, Any]:
    api = await Api.connect(kubeconfig=server.kubeconfig())
    world = Bench(server, redis, api, pools)
    try:
        await world.apply(2)
        cold = await measured(world, world.start(), world.until_made())
        print(f"cold: {cold}", file=sys.stderr, flush=True)
        await world.until_all(is_ready, play=True)
        await world.quiet()
        restarts = [await restart(world) for _ in range(rounds)]
        assert world.operator is not None
        await world.quiet()
        still = [await measured(world, world.operator, asyncio.sleep(RESYNC_SECONDS * 2)) for _ in range(rounds)]
        memory = psutil.Process(world.operator.pid).memory_info().rss
        changes = []
        for number in range(rounds):

            async def change(seconds: int = 3 + number) -> None:
                await world.apply(seconds)
                await world.until_all(is_observed)

            changes.append(await measured(world, world.operator, change()))
            await world.quiet()
        parts = {"cold": [cold], "restart": restarts, "resync": still, "change": changes}
        return {
            "benchmark": "operator",
            "machine": machine(),
            "pools": pools,
            "resync_seconds": RESYNC_SECONDS,
            "memory_mib": round(memory / 2**20, 1),
            **{name: summary(values) for name, values in parts.items()},
        }
    finally:
        if world.operator is not None:
            world.operator.kill()
        await world.cluster.aclose()
        await api.aclose()


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of each figure; requests by kind of the round in the middle."""
    numbers = [name for name, value in rounds[0].items() if isinstance(value, int | float)]
    middle = statistics.median_low([figures["requests"] for figures in rounds])
    kinds_ = next(figures["by_kind"] for figures in rounds if figures["requests"] == middle)
    return {**{name: spread([figures[name] for figures in rounds], 2) for name in numbers}, "by_kind": kinds_}


def prepare(server: ApiServer) -> None:
    """The operator's rights and the namespace."""
    server.kubectl("create", "namespace", NAMESPACE)
    grant(server, "operator", NAMESPACE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20 pools and one round, to check the benchmark itself")
    given = parser.parse_args()
    pools, rounds = (20, 1) if given.quick else (given.pools, given.rounds)
    missing = [*missing_binaries(), *([] if kuberay_definitions() else ["KubeRay's definitions"])]
    if missing:
        raise SystemExit(f"no {', '.join(missing)}; run `make binaries`")
    server, redis = ApiServer(), RedisServer().start()
    server.add_user("operator")
    try:
        with server:
            prepare(server)
            emit(asyncio.run(bench(pools, rounds, server, redis)))
    finally:
        redis.close()


if __name__ == "__main__":
    main()
