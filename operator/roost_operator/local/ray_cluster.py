"""Local Ray with the pool's Serve application, in its own process.

python -m roost_operator.local.ray_cluster --config FILE

Ray installs signal handlers, threads and log streams; in its own process they cannot touch the supervisor. When the
supervisor dies, the kernel kills this process, and Ray's fate sharing ends the rest. FILE is JSON as written by
`write_plan`. The process touches `ready_file` when every replica is up, and shuts Ray down on SIGTERM.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from roost_operator.local.processes import Command
from roost_operator.local.state_dir import StateDirectory
from roost_worker.config import WorkerConfig

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Little more than Ray's smallest object store, since no tensor travels through it."""

READY_SECONDS = 600.0
"""As without Ray (`workers.py`)."""
START_TRIES = 3
STOP_SECONDS = 30.0
"""How long Ray may take to stop after the drain."""

LOG = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_enable_worker_prestart": "0",
    # Processes for Serve's controller and the first replica, which import Ray while this one imports Serve.
    "RAY_prestart_worker_first_driver": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default replicas and ranks get 15, and starve beside anything else that computes.
    "RAY_worker_niceness": "0",
    # Without it Ray replaces a loopback `_node_ip_address` by that of a real interface, and listens on all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@dataclass(frozen=True, slots=True)
class RayPlan:
    """What the Ray process is to run."""

    worker: WorkerConfig
    replicas: int
    ready_file: Path
    temporary: Path
    """Folder for Ray's own files. Its sockets allow about 100 characters, so it cannot be in the state directory."""
    rank_threads: int = 1
    """Threads of each rank's CPU kernels."""

    @property
    def cpus(self) -> int:
        """Logical CPUs that the placement groups need (a shell and its ranks each), regardless of the machine's."""
        return self.replicas * (1 + self.worker.model.tensor_parallel)


_PLAN = TypeAdapter(RayPlan)


def write_plan(state: StateDirectory, plan: RayPlan) -> Path:
    """Write `plan` to a file that only its owner can read, since it holds the pool's secret."""
    return state.write_private("ray.json", _PLAN.dump_json(plan).decode())


def read_plan(path: Path) -> RayPlan:
    """Read a file that `write_plan` wrote."""
    return _PLAN.validate_json(path.read_bytes())


def command(state: StateDirectory, plan: RayPlan) -> Command:
    """How to run `plan`."""

    async def ready() -> bool:
        return plan.ready_file.exists()

    return Command(
        name="ray",
        argv=(sys.executable, "-m", "roost_operator.local.ray_cluster", "--config", str(write_plan(state, plan))),
        log=state.file("logs", "ray.log"),
        ready=ready,
        ready_seconds=READY_SECONDS,
        stop_seconds=plan.worker.drain_seconds + STOP_SECONDS,
        environment=_ENVIRONMENT,
    )


def run(plan: RayPlan) -> None:
    """Run Ray and the application until SIGTERM."""
    stop = threading.Event()
    plan.ready_file.unlink(missing_ok=True)
    try:
        _start_ray(plan)
        _start_application(plan)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        plan.ready_file.touch()
        stop.wait()
    finally:
        plan.ready_file.unlink(missing_ok=True)
        _stop()


def _start_ray(plan: RayPlan) -> None:
    """Start Ray, with retries: its timeout of 30 s cannot be changed and is too short for a busy machine."""
    import ray

    for tries_left in range(START_TRIES - 1, -1, -1):
        try:
            ray.init(
                address="local",
                num_cpus=plan.cpus,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(plan.temporary),
            )
            return
        except Exception as error:
            if not tries_left or "timed out" not in str(error):
                raise
            LOG.warning("Ray did not start in time, trying again: %s", error)
            ray.shutdown()


def _start_application(plan: RayPlan) -> None:
    from ray import serve

    from roost_worker.serve_app import Resources, build_app

    serve.start(proxy_location="Disabled")
    application = build_app(plan.worker, plan.replicas, Resources(rank_threads=plan.rank_threads))
    serve.run(application, name=plan.worker.pool.replace("/", "-"), route_prefix=None)


def _stop() -> None:
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types here
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    parser.add_argument("--config", type=Path, required=True)
    run(read_plan(parser.parse_args().config))
    # Ray's threads may outlive its shutdown.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
