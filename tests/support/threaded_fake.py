"""A fake gateway in a thread of its own, for tests of code that blocks."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from roost.testing import FakeGateway

_T = TypeVar("_T")


class ThreadedFake:
    """The gateway, and a way to run something in its loop."""

    def __init__(self, gateway: FakeGateway, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self._loop = loop

    @property
    def target(self) -> str:
        return ",".join(self.gateway.targets)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@contextmanager
def fake_in_thread(make: Callable[[], FakeGateway] = FakeGateway) -> Iterator[ThreadedFake]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def enter() -> FakeGateway:
        return await make().__aenter__()

    try:
        gateway = asyncio.run_coroutine_threadsafe(enter(), loop).result()
        try:
            yield ThreadedFake(gateway, loop)
        finally:
            asyncio.run_coroutine_threadsafe(gateway.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
