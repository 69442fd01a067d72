"""The Ray Serve application: one replica is one worker; its ranks are actors in the same placement group.

Nothing goes through Serve's handle or proxy: gateways find the address of a replica's own gRPC server in its lease.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve._private import replica

from roost.config_document import from_document
from roost_worker.config import WorkerConfig
from roost_worker.seam.client import EngineClient
from roost_worker.seam.ray_spawner import RankResources, RaySpawner
from roost_worker.server.config_file import config_from

LOG = logging.getLogger(__name__)
DEPLOYMENT = "worker"
HEALTH_PERIOD_SECONDS = 1.0
HEALTH_TIMEOUT_SECONDS = 30.0
STOP_SECONDS = 20.0
"""How long a replica may take to stop after its drain."""
MOST_STARTS = 1_000_000
"""Starts after which Serve gives up, or `RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT` per replica (default 3) if less."""
RETRY_VARIABLE = "ROOST_RETRY_SECONDS"
"""How long a replica that cannot start waits before it fails; Serve starts the next one at once."""
LAST_WORDS_SECONDS = 0.5
"""Time between the engine's death and the replica's, in which open streams end with a proper status."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Ray's logical resources of one replica. Small shares of a CPU let several workers run on a laptop."""

    shell_cpus: float = 0.1
    rank_cpus: float = 0.1
    rank_gpus: float = 0.0
    rank_threads: int = 0
    """Threads of a rank's CPU kernels; 0 divides the machine's cores among the ranks of one worker."""

    def bundles(self, ranks: int) -> list[dict[str, float]]:
        """Return the bundles of a replica's placement group: its shell's, then each rank's."""
        amounts = {"CPU": self.rank_cpus, "GPU": self.rank_gpus}
        rank = {name: amount for name, amount in amounts.items() if amount}
        return [{"CPU": self.shell_cpus}, *(dict(rank) for _ in range(ranks))]

    def rank(self) -> RankResources:
        """Return those of one rank."""
        return RankResources(self.rank_cpus, self.rank_gpus, self.rank_threads)


def build_app(config: WorkerConfig, replicas: int, resources: Resources | None = None) -> serve.Application:
    """Build an application of `replicas` workers, each with a placement group of its own."""
    resources = resources or Resources()
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": resources.shell_cpus},
        placement_group_bundles=resources.bundles(config.model.tensor_parallel),
        placement_group_strategy="STRICT_PACK",
        max_constructor_retry_count=MOST_STARTS,
        health_check_period_s=HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.drain_seconds + STOP_SECONDS,
    )(WorkerReplica)
    application: serve.Application = deployment.bind(config, resources)
    return application


def app(args: Mapping[str, Any]) -> serve.Application:
    """Build the application from a Serve config with `import_path: roost_worker.serve_app:app`.

    `args` has a WorkerConfig (`worker`) and Resources (`resources`), both as documents, and the number of `replicas`.
    Raise ValueError naming the field and the fix.
    """
    unknown = set(args) - {"worker", "replicas", "resources"}
    if unknown:
        raise ValueError(f"args: {', '.join(sorted(unknown))} is unknown; known are worker, replicas, resources")
    if "worker" not in args:
        raise ValueError("args: worker is missing; set it to a WorkerConfig as a document")
    resources = from_document(Resources, args.get("resources", {}), prefix="args: resources.")
    return build_app(config_from(args["worker"]), int(args.get("replicas", 1)), resources)


def with_environment(config: WorkerConfig, environment: Mapping[str, str]) -> WorkerConfig:
    """Return `config` with its secrets from the environment; arguments can be read in Serve's status."""
    return replace(
        config,
        store_url=environment.get("ROOST_STORE_URL") or config.store_url,
        pool_secret=environment.get("ROOST_POOL_SECRET") or config.pool_secret,
    )


class WorkerReplica:
    """One worker as a Serve replica. Serve awaits its constructor and its destructor."""

    async def __init__(self, config: WorkerConfig, resources: Resources) -> None:  # type: ignore[misc]  # Serve awaits it
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
        _keep_handle_server_on_loopback()
        config = with_environment(config, os.environ)
        spawner = RaySpawner(resources.rank(), ahead=config.model.tensor_parallel)
        try:
            # Imported here, while the ranks import torch: the server's imports take a second.
            from roost_worker.seam.process_engine import start_process_engine
            from roost_worker.server.server import WorkerServer

            async def start_engine(config: WorkerConfig, model_dir: Path) -> EngineClient:
                return await start_process_engine(config, model_dir, spawner)

            self._server = WorkerServer(config, start_engine, on_fatal=_exit_soon)
            await self._server.start()
        except Exception:
            spawner.end_waiting()
            await asyncio.sleep(float(os.environ.get(RETRY_VARIABLE, "0")))
            raise

    async def check_health(self) -> None:
        """Raise RuntimeError when the engine is dead or silent; Serve then replaces the replica."""
        if self._server.failure:
            raise RuntimeError(self._server.failure)

    async def __del__(self) -> None:
        """Drain, then stop. Serve waits `graceful_shutdown_timeout_s` for this."""
        server = getattr(self, "_server", None)
        if server is not None:
            await server.drain()
            await server.stop()


def _keep_handle_server_on_loopback() -> None:
    """Bind the replica's server for Serve's handles, which unpickles what it is sent, to loopback.

    Serve starts it on all interfaces after the constructor and has no option for its address; no handle is used here.
    """
    bind: Callable[[Any, str], int] = replica.add_port_to_grpc_server  # type: ignore[attr-defined]  # Ray's own import
    replica.add_port_to_grpc_server = lambda server, _: bind(server, "127.0.0.1:0")  # type: ignore[attr-defined]


def _exit_soon(reason: str) -> None:
    asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, os._exit, 1)
