"""A whole worker, from start to drain and stop: model, renderer, engine, gRPC, lease and telemetry."""

import asyncio
import logging
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import aio as health_aio
from opentelemetry.sdk.trace import TracerProvider

from roost.addresses import join_address
from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS
from roost.store.keys import MOVES_DONE
from roost.store.leases import Published
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from roost_worker.config import WorkerConfig
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.store import ModelStore
from roost_worker.grammar import CompilePool, CompileSetup
from roost_worker.model.config import read_config
from roost_worker.render.errors import RenderError
from roost_worker.render.fidelity import Limit, find_limits
from roost_worker.render.renderer import Renderer
from roost_worker.seam.client import EngineClient, EngineDeadError
from roost_worker.server.drain import Drain, Mover, Phase
from roost_worker.server.identity import WorkerIdentity
from roost_worker.server.lease import LeasePublisher
from roost_worker.server.service import WorkerService
from roost_worker.server.shell import Shell
from roost_worker.server.telemetry import WorkerTelemetry

LOG = logging.getLogger(__name__)
StartEngine = Callable[[WorkerConfig, Path], Awaitable[EngineClient]]
SILENT_SECONDS = 60.0
"""An engine that is silent for longer counts as dead; a batch on a slow CPU may take seconds."""
WATCH_SECONDS = 1.0
STOP_SECONDS = 2.0
_SERVICE = pb.DESCRIPTOR.services_by_name["WorkerService"].full_name
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port in use is an error, rather than shared with another process
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),  # notices that a gateway's machine died, so that its attempts become orphans
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # otherwise gRPC waits 60 s for a ping, despite the line above
    ("grpc.keepalive_permit_without_calls", 1),
    # Gateways ping every 10 s. On a silent stream, such as one that waits, gRPC would take that for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
_HEALTH = health_pb2.HealthCheckResponse


class WorkerServer:
    """One worker. Call `start`, then `drain` and `stop`, all in one event loop."""

    def __init__(
        self,
        config: WorkerConfig,
        start_engine: StartEngine,
        *,
        on_fatal: Callable[[str], None] = lambda reason: None,
        worker_id: str | None = None,
        tracer_provider: TracerProvider | None = None,
        keep_seconds: float = LEASE_TTL_SECONDS,
        lease_period: float = LEASE_PERIOD_SECONDS,
    ) -> None:
        """Raise ValueError when the worker would listen to other machines without a secret.

        `on_fatal` is called once, when the engine has died and all streams have ended. `keep_seconds` is how long an
        orphan's output outlives its stream, `lease_period` how often the lease is renewed.
        """
        if not config.pool_secret and config.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"host: {config.host} needs pool_secret; without one a worker listens on 127.0.0.1 only")
        self.config = config
        self.worker_id = worker_id or new_worker_id()
        self.address = ""
        self.metrics_port: int | None = None
        self._start_engine, self._on_fatal = start_engine, on_fatal
        self._keep_seconds, self._lease_period = keep_seconds, lease_period
        self._telemetry = WorkerTelemetry(self.worker_id, tracer_provider)
        self._service = WorkerService(config.pool_secret, self._telemetry.tracer, self._publish)
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._engine: EngineClient | None = None
        self._grammars: CompilePool | None = None
        self._publisher: LeasePublisher | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: str | None = None
        self._drain = Drain(config.drain_seconds)
        self._drained = asyncio.Event()
        self._stops = self._asked = False
        self._mover = Mover.NONE
        self._stopping = asyncio.Event()

    @property
    def shell(self) -> Shell:
        """The worker's shell. Raises RuntimeError before the worker is ready."""
        if self._service.shell is None:
            raise RuntimeError("the worker is not ready; await start() first")
        return self._service.shell

    @property
    def failure(self) -> str | None:
        """Why the worker cannot serve any more; None while it can."""
        if self._failure is None and self._engine is not None:
            silence = time.monotonic() - self._engine.heartbeat
            if silence > SILENT_SECONDS:
                return f"the engine has been silent for {silence:.0f} s"
        return self._failure

    async def start(self) -> str:
        """Load the model and serve; return `host:port`. Health is NOT_SERVING until everything is ready.

        Raise OSError when a port is taken, and ConvertError, ModelConfigError, RenderError or EngineStartError when the
        model cannot be served; nothing is left running then.
        """
        try:
            await self._listen()
            model = await asyncio.to_thread(self._prepare)
            renderer = await asyncio.to_thread(Renderer.from_dir, model.path)
            limits = await asyncio.to_thread(_limits, renderer)
            self._engine = await self._start_engine(self.config, model.path)
            self._open(model, renderer, limits, self._engine)
            await self._set_health(_HEALTH.SERVING)
        except BaseException:
            await self.stop()
            raise
        LOG.info("worker %s serves %s at %s", self.worker_id, self.config.model.name, self.address)
        return self.address

    async def drain(self) -> bool:
        """Leave, drain and wait for the running attempts, `drain_seconds` in all; return whether all of them ended."""
        if self._service.shell is None:
            return True
        self._stops = True
        self._advance_drain()
        await self._set_health(_HEALTH.NOT_SERVING)
        await self._publish()
        try:
            async with asyncio.timeout(self.config.drain_seconds):
                await self._drained.wait()
                await self._publish()  # what was published before may say that it is leaving
                await self.shell.idle.wait()
        except TimeoutError:
            LOG.warning("%d attempts are still running after the drain time", len(self.shell.attempts))
            return False
        return True

    async def stop(self) -> None:
        """End everything, in this order: lease, calls, engine. Idempotent."""
        self._stopping.set()
        if self._publisher is not None:
            await self._publisher.withdraw()
            await self._publisher.aclose()
        self._service.trunks.finish()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if self._engine is not None:
            await self._engine.aclose()
        if self._grammars is not None:
            await self._grammars.aclose()
        if self._service.shell is not None:
            self._service.shell.prompts.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.to_thread(self._telemetry.close)
        self._publisher = self._server = self._engine = self._grammars = self._service.shell = None

    async def _listen(self) -> None:
        await self._set_health(_HEALTH.NOT_SERVING)
        server = grpc.aio.server(options=_OPTIONS)
        pb_grpc.add_WorkerServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        host, port = self.config.host, self.config.port
        try:
            port = server.add_insecure_port(join_address(host, port))
        except RuntimeError as error:
            raise OSError(f"port {port} on {host} is taken or not ours; choose another port, or 0") from error
        self._server = server
        await server.start()
        self.address = join_address(advertised_host(host), port)
        if self.config.metrics_port is not None:
            self.metrics_port = self._telemetry.serve(host, self.config.metrics_port)

    def _prepare(self) -> PreparedModel:
        store, model = ModelStore(self.config.cache_dir), self.config.model
        prepared = store.prepare(model.source, model.dtype, _ProgressLog(model.name))
        decoder = read_config(prepared.path)  # checked here, before each rank loads its share
        decoder.check_tensor_parallel(model.tensor_parallel)
        decoder.check_context(model.context_tokens)
        return prepared

    def _open(self, model: PreparedModel, renderer: Renderer, limits: Sequence[Limit], engine: EngineClient) -> None:
        LOG.info("turns and tool calls are written in the format %s", renderer.format.name)
        for limit in limits:
            LOG.warning("the model %s is limited: %s", self.config.model.name, limit)
        revision = model.revision_in(self.config.model.quantization, self.config.kv.dtype)
        identity = WorkerIdentity(self.worker_id, secrets.token_hex(8), self.address, revision)
        tokenizer = str(model.path / "tokenizer.json")
        setup = CompileSetup(tokenizer, renderer.eos_token_ids, engine.info.vocab_size, self.config.grammar)
        self._grammars = CompilePool(setup)
        shell = Shell(
            self.config, identity, engine, renderer, self._grammars, limits=limits, keep_seconds=self._keep_seconds
        )
        self._service.shell = shell
        self._publisher = LeasePublisher(
            self.config.store_url,
            self.config.pool,
            self.worker_id,
            shell.lease,
            shell.residency.published,
            on_published=self._take_published,
            period=self._lease_period,
        )
        self._telemetry.observe(shell)
        coroutines = (self._pump(shell, engine), self._publisher.run(), self._watch(shell))
        self._tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]

    async def _pump(self, shell: Shell, engine: EngineClient) -> None:
        try:
            async for outputs in engine.outputs():
                shell.take(outputs)
        except EngineDeadError as error:
            await self._fail(shell, f"the engine died: {error}")
        except Exception as error:
            LOG.exception("the engine's outputs cannot be handled")
            await self._fail(shell, f"{type(error).__name__}: {error}")

    async def _watch(self, shell: Shell) -> None:
        """Fail when the engine is silent for too long; go on draining while the store is away."""
        while not self._stopping.is_set():
            self._advance_drain()
            if self._failure is None and self.failure is not None:
                await self._fail(shell, self.failure)
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._stopping.wait()

    async def _fail(self, shell: Shell, reason: str) -> None:
        if self._failure is not None:
            return
        LOG.error("the worker ends: %s", reason)
        self._failure = reason
        if self._publisher is not None:
            self._publisher.stop_publishing()  # a lease that says "draining" would explain the end of its steps
        shell.leaving, shell.draining = False, True
        self._drained.set()
        shell.lose()
        await self._set_health(_HEALTH.NOT_SERVING)
        if self._publisher is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._publisher.withdraw()
        self._on_fatal(reason)

    def _take_published(self, published: Published) -> None:
        """Drain while the operator's key in the store asks for it; a worker that stops by itself drains anyway."""
        self._asked = published.drain
        self._mover = _mover(published.mover)
        self._advance_drain()

    def _advance_drain(self) -> None:
        shell = self._service.shell
        if shell is None or self._failure is not None:
            return
        asked, holds = self._asked or self._stops, bool(shell.residency or len(shell.attempts))
        now = time.monotonic()
        phase = self._drain.advance(now, asked=asked, holds_sessions=holds, mover=self._mover)
        shell.leaving_seconds = self._drain.leaving_seconds(now)
        shell.leaving, shell.draining = phase is Phase.LEAVING, phase is Phase.DRAINING
        if shell.draining:
            self._drained.set()
        else:
            self._drained.clear()

    async def _publish(self) -> None:
        if self._publisher is not None:
            await self._publisher.publish()

    async def _set_health(self, status: int) -> None:
        for service in (OVERALL_HEALTH, _SERVICE):
            await self._health.set(service, status)


def _limits(renderer: Renderer) -> Sequence[Limit]:
    """Return the model's limits, or nothing if the check itself fails: the model can be served without it.

    Raise RenderError when the model is refused.
    """
    try:
        return find_limits(renderer)
    except RenderError:
        raise
    except Exception:
        LOG.exception("the model's prompts could not be compared with its own chat template")
        return ()


def _mover(stored: str | None) -> Mover:
    if stored is None:
        return Mover.NONE
    return Mover.DONE if stored == MOVES_DONE else Mover.MOVES


class _ProgressLog:
    """Logs a model's preparation, a line for each tenth of each stage."""

    def __init__(self, model: str) -> None:
        self._model, self._logged = model, ("", -1)

    def __call__(self, stage: str, fraction: float) -> None:
        tenth = (stage, int(fraction * 10))
        if tenth != self._logged:
            LOG.info("model %s: %s %d %%", self._model, stage, fraction * 100)
        self._logged = tenth


def new_worker_id() -> str:
    """Return a new name for a worker: its host's name, made safe for Redis keys, and 8 random digits."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:40]
    return f"{host or 'worker'}-{secrets.token_hex(4)}"


def advertised_host(host: str) -> str:
    """Return the address at which other machines reach a listener on `host`: `host`, unless it means all interfaces.

    Raise OSError naming the fix when this machine has no route to any other.
    """
    if host not in ("0.0.0.0", "::", ""):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent, but the route is looked up
        except OSError as error:
            raise OSError(
                f"host: {host!r} means all interfaces, and no route says which address to advertise ({error}); "
                "set host to the address"
            ) from error
        return str(probe.getsockname()[0])
