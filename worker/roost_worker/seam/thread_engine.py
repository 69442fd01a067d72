"""An engine in a thread of the shell's process, for tests."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from queue import SimpleQueue

from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs
from roost_worker.engine.plan import Runner
from roost_worker.seam.client import EngineClient, EngineDeadError, EngineStartError
from roost_worker.seam.delivery import Delivery
from roost_worker.seam.engine_loop import Close, EngineLoop, Heartbeat, Inbox, build_engine, start_up_line

logger = logging.getLogger(__name__)


class ThreadEngine:
    """Implements EngineClient."""

    def __init__(self, build_runner: Callable[[], Runner], config: WorkerConfig) -> None:
        self._build_runner = build_runner
        self._config = config
        self._inbox: Inbox = SimpleQueue()
        self._delivery = Delivery()
        self._started: Future[EngineInfo] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def info(self) -> EngineInfo:
        return self._started.result(timeout=0)

    @property
    def heartbeat(self) -> float:
        return self._delivery.heartbeat

    async def start(self) -> None:
        """Start the thread. Raise EngineStartError when the runner cannot be built."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    def send(self, message: EngineMessage) -> None:
        self._delivery.check()
        self._inbox.put(message)

    def outputs(self) -> AsyncIterator[Outputs]:
        return self._delivery.outputs()

    async def aclose(self) -> None:
        self._inbox.put(Close())
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            engine = build_engine(self._build_runner(), self._config, self._inbox)
        except Exception as error:
            self._started.set_exception(EngineStartError(f"{type(error).__name__}: {error}"))
            return
        self._delivery.beat()
        self._started.set_result(engine.info)
        logger.info(start_up_line(engine.info))
        try:
            EngineLoop(engine, self._inbox, self._report).run()
            self._delivery.end()
        except Exception as error:
            logger.exception("the engine died")
            self._delivery.end(EngineDeadError(f"{type(error).__name__}: {error}"))
        finally:
            engine.close()

    def _report(self, frame: Outputs | Heartbeat) -> None:
        if isinstance(frame, Outputs):
            self._delivery.put(frame)
        else:
            self._delivery.beat()


async def start_thread_engine(build_runner: Callable[[], Runner], config: WorkerConfig) -> EngineClient:
    """Start an engine in a thread; `build_runner` is called there. Raise EngineStartError when that fails."""
    engine = ThreadEngine(build_runner, config)
    await engine.start()
    return engine
