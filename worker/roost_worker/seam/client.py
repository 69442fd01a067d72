"""The shell's interface to an engine, wherever it runs."""

from collections.abc import AsyncIterator
from typing import Protocol

from roost_worker.engine.messages import EngineInfo, EngineMessage, Outputs


class EngineStartError(Exception):
    """The engine did not start. The message names the rank that failed, and why."""


class EngineDeadError(Exception):
    """The engine died, and its requests with it. The worker exits; gateways rebuild the sessions elsewhere."""


class EngineClient(Protocol):
    """One engine. Call its methods in the event loop that started it."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` of the engine loop's last sign of life: at least two a second, except during a batch."""
        ...

    def send(self, message: EngineMessage) -> None:
        """Send without waiting. Raise EngineDeadError when the engine is dead or closed."""
        ...

    def outputs(self) -> AsyncIterator[Outputs]:
        """Yield outputs, to one consumer, until `aclose`. Raise EngineDeadError at the end if the engine died."""
        ...

    async def aclose(self) -> None:
        """Stop the engine and free its resources. Idempotent."""
        ...
