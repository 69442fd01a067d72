"""The process of one rank: rank 0 runs the engine, the others follow its runner.

A rank connects to the shell's Unix socket before it loads anything, and sends Hello, then Ready or Failed. Rank 0 then
receives messages and sends Outputs and Heartbeat; the others send nothing more. A closed socket tells each side that
the other is gone; a rank then exits at once, whatever it is doing.
"""

import gc
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Client
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Protocol

from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import EngineInfo
from roost_worker.engine.plan import Runner
from roost_worker.seam.engine_loop import EngineLoop, Inbox, build_engine, start_up_line

logger = logging.getLogger(__name__)

RUNNER_MODULE = "roost_worker.model.runner"
"""Where ranks find what they run; importing it, and torch with it, is most of their start."""
EXIT_SHELL_GONE = 70
EXIT_MESSAGE_UNREADABLE = 71


@dataclass(frozen=True, slots=True)
class RankArgs:
    """Everything that a rank needs; picklable."""

    config: WorkerConfig
    model_dir: Path
    rank: int
    world: int
    address: str
    """Path of the shell's socket."""
    authkey: bytes = field(repr=False)
    init_method: str | None = None
    """Where the ranks meet, in torch.distributed's form; None for a single rank."""
    runner: str = f"{RUNNER_MODULE}:build_runner"
    """`module:function` that builds the runner; the module's `follow` is the main loop of ranks 1 and up."""


class RankHandle(Protocol):
    """A rank as its spawner sees it."""

    def alive(self) -> bool: ...

    def kill(self) -> None:
        """End the rank at once, without waiting long. Idempotent."""
        ...


class Spawner(Protocol):
    """Starts ranks on this machine. They call `run_rank` and must die with the process that spawned them."""

    def spawn(self, args: RankArgs) -> RankHandle:
        """Start a rank, without waiting for it to load. Raise OSError when it cannot be started."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """A rank has connected."""

    rank: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A rank has loaded its model; rank 0 adds its engine's info."""

    info: EngineInfo | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A rank ends because of an error."""

    error: str


class ShellLink:
    """A rank's connection to its shell."""

    def __init__(self, args: RankArgs) -> None:
        self._connection = Client(args.address, family="AF_UNIX", authkey=args.authkey)
        self._closing = False
        self.send(Hello(args.rank))

    def send(self, frame: object) -> None:
        """Send a frame, and exit the process when the shell is gone."""
        try:
            self._connection.send(frame)
        except OSError:
            os._exit(EXIT_SHELL_GONE)

    def read(self, take: Callable[[Any], None]) -> None:
        """Call `take` with each message, in a thread, and exit the process when the shell is gone, or when a message
        cannot be read."""
        threading.Thread(target=self._read, args=(take,), name="shell-reader", daemon=True).start()

    def close(self) -> None:
        """End the connection, even while the reader is blocked on it."""
        self._closing = True
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def _read(self, take: Callable[[Any], None]) -> None:
        try:
            while True:
                take(self._connection.recv())
        except (EOFError, OSError):
            if not self._closing:
                os._exit(EXIT_SHELL_GONE)
        except Exception:
            # Without this thread the rank would go on sending heartbeats, but read no more messages.
            logger.exception("a message of the shell cannot be read")
            os._exit(EXIT_MESSAGE_UNREADABLE)


def import_ahead(modules: Sequence[str]) -> None:
    """Import modules before they are needed, without garbage collections. A module that cannot be imported is passed
    over: the import where it is needed raises the error."""
    gc.disable()  # nothing that is imported is garbage, and looking for it would take a tenth of the time
    for module in modules:
        with suppress(Exception):
            import_module(module)
    gc.enable()


def run_rank(args: RankArgs) -> None:
    """Run a rank until its shell closes it. When it fails, report that to the shell and raise the error."""
    link = ShellLink(args)
    inbox: Inbox = SimpleQueue()
    link.read(inbox.put)
    try:
        module, runner = _build_runner(args)
        if args.rank == 0:
            _lead(args, runner, link, inbox)
        else:
            link.send(Ready(None))
            module.follow(runner)
    except Exception as error:
        logger.exception("rank %d failed", args.rank)
        link.send(Failed(f"{type(error).__name__}: {error}"))
        raise
    finally:
        link.close()


def _build_runner(args: RankArgs) -> tuple[ModuleType, Runner]:
    module_name, _, function = args.runner.partition(":")
    module = import_module(module_name)
    build = getattr(module, function)
    runner: Runner = build(args.config, args.model_dir, rank=args.rank, world=args.world, init_method=args.init_method)
    return module, runner


def _lead(args: RankArgs, runner: Runner, link: ShellLink, inbox: Inbox) -> None:
    engine = build_engine(runner, args.config, inbox)
    logger.info(start_up_line(engine.info))
    link.send(Ready(engine.info))
    # Keep the loaded objects out of garbage collections, which would take as long as several decode batches.
    gc.collect()
    gc.freeze()
    EngineLoop(engine, inbox, link.send).run()
    engine.close()
