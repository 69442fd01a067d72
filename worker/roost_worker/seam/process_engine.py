"""The shell's side of an engine in processes of its own, one per rank.

A thread per connection authenticates the rank and reads its frames. `multiprocessing.connection.Listener` would do the
former, but blocks in `accept` for good when a rank ends before it has connected.
"""

import asyncio
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs
from roost_worker.seam.client import EngineClient, EngineDeadError, EngineStartError
from roost_worker.seam.delivery import Delivery
from roost_worker.seam.engine_loop import Close, Heartbeat
from roost_worker.seam.rank import Failed, Hello, RankArgs, RankHandle, Ready, Spawner

RankConnection: TypeAlias = "Connection[Any, Any]"

DEFAULT_RUNNER = "roost_worker.model.runner:build_runner"
START_SECONDS = 900.0
"""How long ranks may take to load."""
CLOSE_SECONDS = 10.0
"""How long ranks may take to end by themselves."""
POLL_SECONDS = 0.2
"""How often to check that ranks which have not connected yet are alive."""
LONGEST_ADDRESS = 100
"""Most bytes of a Unix socket's path; Linux allows 107."""


class ProcessEngine:
    """Implements EngineClient. One thread reads each rank's connection, one writes to rank 0."""

    def __init__(self, config: WorkerConfig, model_dir: Path, runner: str) -> None:
        self._config = config
        self._model_dir = model_dir
        self._runner = runner
        self._world = config.model.tensor_parallel
        self._loop = asyncio.get_running_loop()
        self._delivery = Delivery()
        self._authkey = secrets.token_bytes(32)
        self._folder = _private_folder()
        self._outbox: SimpleQueue[EngineMessage | Close | None] = SimpleQueue()
        self._handles: list[RankHandle] = []
        self._threads: list[threading.Thread] = []
        self._connected: set[int] = set()
        self._ready: dict[int, EngineInfo | None] = {}
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._closing = False

    @property
    def info(self) -> EngineInfo:
        info = self._ready[0]
        assert info is not None
        return info

    @property
    def heartbeat(self) -> float:
        return self._delivery.heartbeat

    def send(self, message: EngineMessage) -> None:
        self._delivery.check()
        self._outbox.put(message)

    def outputs(self) -> AsyncIterator[Outputs]:
        return self._delivery.outputs()

    async def start(self, spawn: Spawner, timeout: float) -> None:
        """Wait until all ranks are ready. When one fails, end all of them and raise EngineStartError."""
        try:
            with _listen(self._folder / "shell", self._world) as listener:
                self._spawn(spawn)
                self._loop.add_reader(listener, self._accept, listener)
                try:
                    async with asyncio.timeout(timeout):
                        await self._wait_until_started()
                finally:
                    self._loop.remove_reader(listener)
        except TimeoutError:
            await self.aclose()
            raise EngineStartError(f"ranks were not ready after {timeout:.0f} s") from None
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._closing = True
        self._outbox.put(Close())
        self._delivery.end()
        if len(self._ready) == self._world:
            await asyncio.to_thread(self._join)
        self._kill()
        self._outbox.put(None)
        await asyncio.to_thread(self._join)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, spawn: Spawner) -> None:
        for rank in range(self._world):
            try:
                self._handles.append(spawn.spawn(self._args(rank)))
            except OSError as error:
                raise EngineStartError(f"rank {rank} could not be spawned: {error}") from error

    def _args(self, rank: int) -> RankArgs:
        return RankArgs(
            config=self._config,
            model_dir=self._model_dir,
            rank=rank,
            world=self._world,
            address=str(self._folder / "shell"),
            authkey=self._authkey,
            init_method=f"file://{self._folder}/ranks" if self._world > 1 else None,
            runner=self._runner,
        )

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            accepted, _ = listener.accept()
            accepted.setblocking(True)
            connection: RankConnection = Connection(accepted.detach())
            self._start_thread("rank-reader", self._read, connection)

    def _start_thread(self, name: str, target: Callable[[RankConnection], None], connection: RankConnection) -> None:
        thread = threading.Thread(target=target, args=(connection,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    async def _wait_until_started(self) -> None:
        suspects: set[int] = set()
        while not self._started.done():
            await asyncio.wait([self._started], timeout=POLL_SECONDS)
            ended = {rank for rank, handle in enumerate(self._handles) if not handle.alive()} - self._connected
            # Twice in a row, because a rank may end after it connected, but before its Hello is read.
            if suspects & ended:
                self._fail(f"rank {min(suspects & ended)} ended before it connected; its log says why")
            suspects = ended
        self._started.result()

    def _read(self, connection: RankConnection) -> None:
        """Read a rank's frames until it is gone. Runs in a thread."""
        rank = None
        try:
            with connection:
                deliver_challenge(connection, self._authkey)
                answer_challenge(connection, self._authkey)
                hello: Hello = connection.recv()
                rank = hello.rank
                self._connected.add(rank)
                if rank == 0:
                    self._start_thread("rank-writer", self._write, connection)
                while True:
                    self._take(rank, connection.recv())
        except (EOFError, OSError, AuthenticationError):
            if rank is not None:
                self._in_loop(self._fail, f"rank {rank} died")
        except Exception as error:
            if rank is None:
                raise
            # Nothing reads from this rank any more, so it would seem alive until its heartbeat is missed.
            self._in_loop(self._fail, f"a message of rank {rank} cannot be read: {type(error).__name__}: {error}")

    def _write(self, connection: RankConnection) -> None:
        """Write messages to rank 0. Runs in a thread."""
        try:
            while (message := self._outbox.get()) is not None:
                connection.send(message)
        except OSError:
            return  # the reader sees that the rank is gone
        except Exception as error:
            # Without this thread the rank would go on sending heartbeats, but get no more messages.
            self._in_loop(self._fail, f"a message to rank 0 cannot be sent: {type(error).__name__}: {error}")

    def _take(self, rank: int, frame: object) -> None:
        match frame:
            case Outputs():
                self._delivery.put(frame)
            case Heartbeat():
                self._delivery.beat()
            case Ready(info):
                self._in_loop(self._on_ready, rank, info)
            case Failed(error):
                self._in_loop(self._fail, f"rank {rank}: {error}")

    def _in_loop(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _on_ready(self, rank: int, info: EngineInfo | None) -> None:
        self._ready[rank] = info
        if len(self._ready) == self._world and not self._started.done():
            self._delivery.beat()
            self._started.set_result(None)

    def _fail(self, reason: str) -> None:
        """End all ranks, because one failed."""
        if self._closing:
            return
        if not self._started.done():
            self._started.set_exception(EngineStartError(reason))
        self._delivery.end(EngineDeadError(reason))
        self._outbox.put(None)
        self._kill()

    def _kill(self) -> None:
        for handle in self._handles:
            handle.kill()

    def _join(self) -> None:
        """Wait until the ranks have closed their connections, at most CLOSE_SECONDS."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in list(self._threads):
            if thread.name == "rank-reader":
                thread.join(max(0.0, deadline - time.monotonic()))


def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="roost-")
    if len(folder) <= LONGEST_ADDRESS - len("/shell"):
        return Path(folder)
    Path(folder).rmdir()
    return Path(tempfile.mkdtemp(prefix="roost-", dir="/tmp"))


def _listen(address: Path, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


async def start_process_engine(
    config: WorkerConfig,
    model_dir: Path,
    spawn: Spawner,
    *,
    runner: str = DEFAULT_RUNNER,
    timeout: float = START_SECONDS,
) -> EngineClient:
    """Spawn `config.model.tensor_parallel` ranks and wait until they have loaded the model in `model_dir`.

    `runner` is `RankArgs.runner`. When a rank fails, or when loading takes longer than `timeout` seconds, end all ranks
    and raise EngineStartError with the failed rank's message.
    """
    engine = ProcessEngine(config, model_dir, runner)
    await engine.start(spawn, timeout)
    return engine
