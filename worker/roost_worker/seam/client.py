"""What the shell sees of an engine, wherever it runs."""

from collections.abc import AsyncIterator
from typing import Protocol

from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs


class EngineStartError(Exception):
    """The engine did not come up; the text says which rank failed and why."""


class EngineDeadError(Exception):
    """The engine is gone and its requests with it. The worker exits; gateways rebuild the sessions elsewhere."""


class EngineClient(Protocol):
    """One engine. All methods belong to the event loop that started it."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` of the engine loop's last sign of life; it gives one at least twice a second, but for
        the time of one batch."""
        ...

    def send(self, message: EngineMessage) -> None:
        """Sends without waiting. Raises EngineDeadError when the engine is dead or closed."""
        ...

    def outputs(self) -> AsyncIterator[Outputs]:
        """What the engine says, for one consumer. Raises EngineDeadError after the last of it when the engine died;
        ends after `aclose`."""
        ...

    async def aclose(self) -> None:
        """Stops the engine and frees what it holds. Idempotent."""
        ...
