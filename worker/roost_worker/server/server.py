"""A whole worker: model, renderer, engine, gRPC, lease and telemetry, from start to drain and stop."""

import asyncio
import logging
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import aio as health_aio
from opentelemetry.sdk.trace import TracerProvider

from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from roost_worker.config import WorkerConfig
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.store import ModelStore
from roost_worker.grammar import CompilePool, CompileSetup
from roost_worker.model.config import read_config
from roost_worker.render.renderer import Renderer
from roost_worker.seam.client import EngineClient, EngineDeadError
from roost_worker.server.lease import LeasePublisher
from roost_worker.server.service import WorkerService
from roost_worker.server.shell import Identity, Shell
from roost_worker.server.telemetry import Telemetry

LOG = logging.getLogger(__name__)
StartEngine = Callable[[WorkerConfig, Path], Awaitable[EngineClient]]
SILENT_SECONDS = 60.0
"""Longest silence of an engine that is still believed alive; one batch on a slow CPU may take seconds."""
WATCH_SECONDS = 1.0
STOP_SECONDS = 2.0
_SERVICE = pb.DESCRIPTOR.services_by_name["WorkerService"].full_name
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a share of somebody else's calls
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),  # so that a gateway whose machine died is noticed, and its attempts orphaned
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # else gRPC waits 60 s for a ping, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    # Gateways ping every 10 s. gRPC takes that for an attack on a stream that says nothing, as one that waits does.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
_HEALTH = health_pb2.HealthCheckResponse


class WorkerServer:
    """One worker. `start`, then `drain` and `stop`; the loop that started it owns it."""

    def __init__(
        self,
        config: WorkerConfig,
        start_engine: StartEngine,
        *,
        on_fatal: Callable[[str], None] = lambda reason: None,
        worker_id: str | None = None,
        tracer_provider: TracerProvider | None = None,
        **timing: float,
    ) -> None:
        """`on_fatal` is called once when the engine died, after all streams were told. `timing` is for tests:
        `keep_seconds` of orphans, `lease_period` and `lease_ttl`. Raises ValueError when it would listen to other
        machines without a secret.
        """
        if not config.pool_secret and config.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"host: {config.host} needs pool_secret; without one a worker listens on 127.0.0.1 only")
        self.config = config
        self.worker_id = worker_id or new_worker_id()
        self.address = ""
        self.metrics_port: int | None = None
        self._start_engine, self._on_fatal, self._timing = start_engine, on_fatal, timing
        self._telemetry = Telemetry(self.worker_id, tracer_provider)
        self._service = WorkerService(config.pool_secret, self._telemetry.tracer, self._publish)
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._engine: EngineClient | None = None
        self._grammars: CompilePool | None = None
        self._publisher: LeasePublisher | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: str | None = None
        self._draining = False
        self._stopping = asyncio.Event()

    @property
    def shell(self) -> Shell:
        """Raises RuntimeError before the worker is ready."""
        if self._service.shell is None:
            raise RuntimeError("the worker is not ready; await start() first")
        return self._service.shell

    @property
    def failure(self) -> str | None:
        """Why the worker is of no use any more; None while it is."""
        if self._failure is None and self._engine is not None:
            silence = time.monotonic() - self._engine.heartbeat
            if silence > SILENT_SECONDS:
                return f"the engine has been silent for {silence:.0f} s"
        return self._failure

    async def start(self) -> str:
        """Loads and serves; returns `host:port`. Health is NOT_SERVING until all is ready.

        Raises OSError when a port is taken, ConvertError, ModelConfigError, RenderError or EngineStartError when the
        model cannot be served; nothing is left running then.
        """
        try:
            await self._listen()
            model = await asyncio.to_thread(self._prepare)
            renderer = await asyncio.to_thread(Renderer.from_dir, model.path)
            self._engine = await self._start_engine(self.config, model.path)
            self._open(model, renderer, self._engine)
            await self._set_health(_HEALTH.SERVING)
        except BaseException:
            await self.stop()
            raise
        LOG.info("worker %s serves %s at %s", self.worker_id, self.config.model.name, self.address)
        return self.address

    async def drain(self) -> bool:
        """Takes no new attempts and waits `drain_seconds` for the running ones; whether all of them ended."""
        if self._service.shell is None:
            return True
        self._draining = self.shell.draining = True
        await self._set_health(_HEALTH.NOT_SERVING)
        await self._publish()
        try:
            async with asyncio.timeout(self.config.drain_seconds):
                await self.shell.idle.wait()
        except TimeoutError:
            LOG.warning("%d attempts are still running after the drain time", len(self.shell.attempts))
            return False
        return True

    async def stop(self) -> None:
        """Ends everything, in this order: lease, calls, engine. Idempotent."""
        self._stopping.set()
        if self._publisher is not None:
            await self._publisher.withdraw()
            await self._publisher.aclose()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if self._engine is not None:
            await self._engine.aclose()
        if self._grammars is not None:
            await self._grammars.aclose()
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
            port = server.add_insecure_port(f"{_bracketed(host)}:{port}")
        except RuntimeError as error:
            raise OSError(f"port {port} on {host} is taken or not ours; choose another port, or 0") from error
        self._server = server
        await server.start()
        self.address = f"{_bracketed(advertised_host(host))}:{port}"
        if self.config.metrics_port is not None:
            self.metrics_port = self._telemetry.serve(host, self.config.metrics_port)

    def _prepare(self) -> PreparedModel:
        store, model = ModelStore(self.config.cache_dir), self.config.model
        prepared = store.prepare(model.source, model.dtype, _ProgressLog(model.name))
        decoder = read_config(prepared.path)  # told here, before as many processes as it asks for load a model
        decoder.check_tensor_parallel(model.tensor_parallel)
        decoder.check_context(model.context_tokens)
        return prepared

    def _open(self, model: PreparedModel, renderer: Renderer, engine: EngineClient) -> None:
        if renderer.own_template_refused:
            LOG.info("the model's own chat template is not used: %s", renderer.own_template_refused)
        identity = Identity(self.worker_id, secrets.token_hex(8), self.address, model.revision)
        options = {"keep_seconds": self._timing["keep_seconds"]} if "keep_seconds" in self._timing else {}
        self._grammars = CompilePool(
            CompileSetup(
                str(model.path / "tokenizer.json"),
                renderer.eos_token_ids,
                engine.info.vocab_size,
                self.config.grammar,
            )
        )
        shell = self._service.shell = Shell(self.config, identity, engine, renderer, self._grammars, **options)
        lease = {name: self._timing[f"lease_{name}"] for name in ("period", "ttl") if f"lease_{name}" in self._timing}
        self._publisher = LeasePublisher(
            self.config.store_url,
            self.config.pool,
            self.worker_id,
            shell.lease,
            lambda: shell.residency,
            on_drain=self._told_to_drain,
            **lease,
        )
        self._telemetry.observe(shell)
        self._tasks = [
            asyncio.create_task(course)
            for course in (self._pump(shell, engine), self._publisher.run(), self._watch(shell))
        ]

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
        """An engine that hangs is as good as dead."""
        while not self._stopping.is_set():
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
        self._draining = shell.draining = True
        shell.lose()
        await self._set_health(_HEALTH.NOT_SERVING)
        if self._publisher is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._publisher.withdraw()
        self._on_fatal(reason)

    def _told_to_drain(self, told: bool) -> None:
        """The operator's word, which it may take back; a worker that ends of itself drains whatever it says."""
        if self._service.shell is not None:
            self._service.shell.draining = told or self._draining

    async def _publish(self) -> None:
        if self._publisher is not None:
            await self._publisher.publish()

    async def _set_health(self, status: int) -> None:
        for service in (OVERALL_HEALTH, _SERVICE):
            await self._health.set(service, status)


class _ProgressLog:
    """Logs a model's preparation, a line for each tenth."""

    def __init__(self, model: str) -> None:
        self._model, self._last = model, ("", -1)

    def __call__(self, stage: str, fraction: float) -> None:
        now = (stage, int(fraction * 10))
        if now != self._last:
            LOG.info("model %s: %s %d %%", self._model, stage, fraction * 100)
        self._last = now


def new_worker_id() -> str:
    """A name for a worker: its host's, made safe for keys, and 8 random digits."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:40]
    return f"{host or 'worker'}-{secrets.token_hex(4)}"


def advertised_host(host: str) -> str:
    """The address that other machines reach a listener on `host` at: `host`, unless it means all interfaces.

    Raises OSError naming the fix when this machine has no route to any other.
    """
    if host not in ("0.0.0.0", "::", ""):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent, the route names our own
        except OSError as error:
            raise OSError(f"host: {host!r} is no address and no route tells one ({error}); set host to it") from error
        return str(probe.getsockname()[0])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
