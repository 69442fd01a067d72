"""`LocalStack`: one pool on this machine, started in order and stopped without leftovers."""

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from roost.addresses import join_address
from roost.contract.lease import WorkerLease
from roost_operator.api.deprecations import deprecations
from roost_operator.api.spec import AgentPool
from roost_operator.api.worker_config import worker_config
from roost_operator.local import ray_cluster
from roost_operator.local.events import Notice, Report, silent
from roost_operator.local.gateways import GatewayAddresses, gateway_command
from roost_operator.local.health import health
from roost_operator.local.model import is_at_hand, prepare_model
from roost_operator.local.ports import PortTakenError, free_port, require_free
from roost_operator.local.processes import STACK_VARIABLE, Command, Supervised, kill_stack, log_end
from roost_operator.local.ray_folder import RayFolder, remove_leftovers
from roost_operator.local.redis import EmbeddedRedis
from roost_operator.local.state_dir import StateDirectory
from roost_operator.local.workers import worker_command
from roost_worker.config import WorkerConfig

if TYPE_CHECKING:  # see `LocalStack._start`
    from roost_operator.local.pool_store import PoolStore

SERVING_SECONDS = 180.0
HTTP_PORTS_ABOVE = 1000


class StackError(RuntimeError):
    """The stack did not come up; the text says which part and where its log is."""


@dataclass(frozen=True)
class StackOptions:
    """How to run a pool on this machine."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 7433
    """Port of the first gateway, the others follow; 0 takes free ones."""
    http_port: int | None = None
    """The same for the gateways' HTTP; None: `HTTP_PORTS_ABOVE` the others, or free ones where those are."""
    gateways: int = 2
    ray: bool = True
    """Workers as Ray Serve replicas; otherwise as plain processes."""
    cache_dir: Path | None = None
    key_file: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the environment of every process."""


class LocalStack:
    """Runs a pool while it is entered.

    When a part fails, entering stops what has started and raises StateDirectoryError, PortTakenError, ConvertError,
    ProcessFailedError or StackError.
    """

    def __init__(self, pool: AgentPool, options: StackOptions, report: Report = silent) -> None:
        self.pool = pool
        self.options = options
        self.targets: tuple[str, ...] = ()
        """Addresses of the gateways."""
        self.http_targets: tuple[str, ...] = ()
        """Their addresses for HTTP, in the same order."""
        self.model_dir = Path()
        """The converted model."""
        self.workers: list[Supervised] = []
        """Worker processes; with Ray, the one process that runs Ray."""
        self.gateways: list[Supervised] = []
        self._report = report
        self._state = StateDirectory(options.state_dir)
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._redis: EmbeddedRedis | None = None
        self._redis_process: Supervised | None = None
        self._store: PoolStore | None = None
        self._ray_folder: RayFolder | None = None

    @property
    def redis(self) -> Supervised:
        """The Redis process."""
        assert self._redis_process is not None
        return self._redis_process

    @property
    def redis_url(self) -> str:
        """URL of the embedded Redis, with all rights."""
        assert self._redis is not None
        return self._redis.url

    async def __aenter__(self) -> Self:
        self._state.__enter__()
        os.environ[STACK_VARIABLE] = self._mark
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()

    async def leases(self) -> list[WorkerLease]:
        """Leases of the workers that live now; empty while Redis is away."""
        assert self._store is not None
        return await self._store.leases()

    async def _start(self) -> None:
        """Workers come first and gateways last: the ranks' import of torch takes longer than all else.

        A gateway must not read the leases of an earlier run, which `_publish` deletes; a worker reads none.
        """
        for deprecation in deprecations(self.pool):
            self._notify(deprecation)
        self._take_ports()
        await asyncio.to_thread(remove_leftovers)
        spec, cache_dir = self.pool.spec.model, self.options.cache_dir
        model = None if is_at_hand(spec, cache_dir) else await prepare_model(spec, cache_dir, self._report)
        await self._launch_workers_and_redis()
        model = model or await prepare_model(spec, cache_dir, self._report)
        self.model_dir = model.path
        await self._publish(model.revision_in(spec.quantization, spec.kv_cache.dtype))
        await self._wait_until_all_serve()

    async def _launch_workers_and_redis(self) -> None:
        """Create their processes, without waiting for them."""
        self._redis = EmbeddedRedis(self._state, "127.0.0.1", free_port("127.0.0.1"))
        self._redis_process = self._supervise(self._redis.command())
        self._supervise_workers_and_gateways()
        workers, gateways = self.pool.spec.workers.replicas, self.options.gateways
        self._notify(f"starting Redis, {_count(workers, 'worker')} and {_count(gateways, 'gateway')}")
        for process in (*self.workers, self._redis_process):
            await process.launch()

    def _supervise_workers_and_gateways(self) -> None:
        assert self._redis is not None
        config = worker_config(
            self.pool,
            store_url=self._redis.worker_url,
            pool_secret=self._state.secret("pool-secret"),
            cache_dir=self.options.cache_dir,
        )
        shared = (config.pool, config.pool_secret, self.redis_url, self.options.key_file)
        addresses = map(GatewayAddresses, self.targets, self.http_targets)
        commands = [gateway_command(self._state, number, at, *shared) for number, at in enumerate(addresses, 1)]
        self.gateways = [self._supervise(command) for command in commands]
        self.workers = [] if self.pool.spec.suspend else [self._supervise(c) for c in self._worker_commands(config)]

    async def _publish(self, revision: str) -> None:
        """Wait for Redis, and let gateways find the pool there. Raises StackError."""
        # Imported here, while workers and Redis start: the client of Redis takes a while.
        from roost_operator.local.pool_store import PoolStore, PublishError

        redis = self.redis
        await redis.start()
        self._store = PoolStore.open(self.redis_url, self.pool)
        try:
            await self._store.publish(revision)
        except PublishError as error:
            log = redis.command.log
            raise StackError(f"{error}; the end of {log}:\n{log_end(log)}") from error

    async def _wait_until_all_serve(self) -> None:
        """Start the gateways, and wait for them and the workers."""
        try:
            async with asyncio.TaskGroup() as group:
                for process in (*self.workers, *self.gateways):
                    group.create_task(process.start())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if not self.pool.spec.suspend:
            await self._until("the workers' leases", self._workers_are_up)
            await self._until("the gateways to serve", self._gateways_serve)

    def _worker_commands(self, config: WorkerConfig) -> list[Command]:
        replicas = self.pool.spec.workers.replicas
        threads = max(1, (os.cpu_count() or 1) // (replicas * config.model.tensor_parallel))
        if self.options.ray:
            self._ray_folder = RayFolder()
            ready_file = self._state.file("run", "ray.ready")
            plan = ray_cluster.RayPlan(config, replicas, ready_file, self._ray_folder.path, threads)
            return [ray_cluster.command(self._state, plan)]
        return [worker_command(self._state, number, config, threads) for number in range(1, replicas + 1)]

    def _take_ports(self) -> None:
        """Choose where the gateways listen. Raises PortTakenError."""
        port, http_port = self.options.port, self.options.http_port
        if http_port is None:
            http_port = port and port + HTTP_PORTS_ABOVE
        self.targets = self._addresses(port, "gateway", "--port")
        self.http_targets = self._addresses(http_port, "HTTP of gateway", "--http-port")
        if both := sorted({*self.targets} & {*self.http_targets}):
            raise PortTakenError(f"{both[0]} cannot serve gRPC and HTTP; give another first port with --http-port")

    def _addresses(self, first: int, use: str, flag: str) -> tuple[str, ...]:
        host, count = self.options.host, self.options.gateways
        if first == 0:
            return tuple(join_address(host, free_port(host)) for _ in range(count))
        for number in range(count):
            fix = f"stop what uses it, or give another first port with {flag}"
            require_free(host, first + number, f"{use} {number + 1} of {count}", fix)
        return tuple(join_address(host, first + number) for number in range(count))

    async def _workers_are_up(self) -> bool:
        return len(await self.leases()) >= self.pool.spec.workers.replicas

    async def _gateways_serve(self) -> bool:
        return all([await health(target) for target in self.targets])

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(SERVING_SECONDS):
                while not await holds():  # noqa: ASYNC110  it waits for other processes
                    await asyncio.sleep(0.1)
        except TimeoutError:
            logs = self._state.path / "logs"
            raise StackError(f"waited {SERVING_SECONDS:.0f} s for {what}; see the logs in {logs}") from None

    async def _stop(self) -> None:
        """Stop gateways first, so that no step is cut; Redis last, so that workers can give back their leases."""
        try:
            await asyncio.gather(*(process.stop() for process in self.gateways))
            await asyncio.gather(*(process.stop() for process in self.workers))
            if self._store is not None:
                await self._store.aclose()
            if self._redis_process is not None:
                await self._redis_process.stop()
        finally:
            os.environ.pop(STACK_VARIABLE, None)
            await asyncio.to_thread(kill_stack, self._mark)
            if self._ray_folder is not None:
                self._ray_folder.remove()
            self._state.__exit__(None, None, None)

    def _supervise(self, command: Command) -> Supervised:
        environment = {**command.environment, **self.options.environment, STACK_VARIABLE: self._mark}
        return Supervised(replace(command, environment=environment), self._report)

    def _notify(self, text: str) -> None:
        self._report(Notice(text))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
