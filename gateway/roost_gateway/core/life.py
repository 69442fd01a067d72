"""Starts and stops what a gateway needs: store, fleet, steps."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.redis_store import connect
from roost_gateway.config import GatewayConfig, PoolSecrets
from roost_gateway.core.conversations import Conversations
from roost_gateway.core.counting import TokenCounter
from roost_gateway.core.detached import DetachedConversations
from roost_gateway.core.facts import FactsCache
from roost_gateway.core.gateway import Gateway
from roost_gateway.core.kept_conversations import KeptConversations
from roost_gateway.core.pressure import Pressure
from roost_gateway.core.step_calls import StepCalls
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.moving.movers import Movers
from roost_gateway.moving.pauses import Pauses
from roost_gateway.step.steps import Steps
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_RETRY_SECONDS = 0.5
FINISH_SECONDS = 3.0
"""How long a stopping gateway waits for cancels and aborts that are under way."""


class GatewayRuntime:
    """Makes a Gateway and all that it needs. `open`, perhaps `cut_off`, then `aclose`.

    The fronts of the process (gRPC and HTTP) serve the same `gateway`, `conversations`, `detached` and `counter`.
    """

    def __init__(self, config: GatewayConfig, telemetry: Telemetry, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever `ready` may have changed."""
        self._config = config
        self._telemetry = telemetry
        self._on_change = on_change
        self._stack = contextlib.AsyncExitStack()
        self._gateway: Gateway | None = None
        self._conversations: Conversations | None = None
        self._detached: DetachedConversations | None = None
        self._counter: TokenCounter | None = None
        self._stopping = False
        self.store: SessionStore
        """This and what follows exist once the store has been reached."""
        self.fleet: Fleet
        self.steps: Steps

    @property
    def gateway(self) -> Gateway:
        """Raises StoreAwayError until `open` has returned."""
        return _reached(self._gateway)

    @property
    def conversations(self) -> Conversations:
        """Raises StoreAwayError until `open` has returned."""
        return _reached(self._conversations)

    @property
    def detached(self) -> DetachedConversations:
        """Raises StoreAwayError until `open` has returned."""
        return _reached(self._detached)

    @property
    def counter(self) -> TokenCounter:
        """Raises StoreAwayError until `open` has returned."""
        return _reached(self._counter)

    @property
    def ready(self) -> bool:
        """Whether some worker takes steps of a pool for which the store answers."""
        return self._gateway is not None and self.fleet.ready and not self._stopping

    async def open(self) -> None:
        """Reaches the store, however long that takes, and reads pools and workers once.

        Raises ValueError when the store's URL is invalid.
        """
        config, on_close = self._config, self._stack.push_async_callback
        store = self.store = await reach_store(config.store_url)
        on_close(store.aclose)
        fleet = self.fleet = Fleet(store, config.pools, PoolSecrets(config))
        on_close(fleet.aclose)
        pressure, facts = Pressure(), FactsCache(store)
        on_close(pressure.aclose)
        steps = self.steps = Steps(store, fleet, facts.committed, self._telemetry)
        on_close(steps.aclose, FINISH_SECONDS)
        movers = Movers(store, fleet, self._telemetry)
        on_close(movers.aclose)
        pauses = Pauses(store, fleet, steps)
        on_close(pauses.aclose)

        def changed(pool: str) -> None:
            steps.workers_changed(pool)
            movers.workers_changed(pool)
            pauses.workers_changed(pool)
            self._on_change()

        fleet.on_change = changed
        await fleet.start()
        pressure.start()
        calls = StepCalls(steps, pressure)
        timeout = config.step_timeout_seconds
        self._gateway = Gateway(store, fleet, facts, calls, pauses, timeout)
        kept = KeptConversations(store.kept_conversations, fleet.pools)
        conversations = Conversations(self._gateway, fleet.pools, store.conversations, kept, store.detached, timeout)
        self._conversations = conversations
        on_close(conversations.aclose)
        self._detached = DetachedConversations(conversations, self._gateway, fleet.pools, store.detached)
        on_close(self._detached.aclose, FINISH_SECONDS)
        self._counter = TokenCounter(fleet)
        self._add_gauges(pressure)
        self._on_change()

    async def finish_detached(self) -> None:
        """Waits until no detached step runs here."""
        if self._detached is not None:
            await self._detached.finish()

    def cut_off(self) -> None:
        """Leaves running steps as orphans, for another gateway to resume, and hands detached ones over."""
        self._stopping = True
        if self._gateway is not None:
            self.steps.close()
        if self._detached is not None:
            self._detached.close()

    async def aclose(self) -> None:
        """Ends everything that runs by itself, then the connections."""
        await self._stack.aclose()

    def _add_gauges(self, pressure: Pressure) -> None:
        gauge, fleet, steps = self._telemetry.gauge, self.fleet, self.steps
        gauge("roost.queue.length", "Steps that wait for room in this gateway", steps.waiting)
        gauge("roost.attempts.live", "Steps that run through this gateway", lambda: [(float(steps.live_attempts), {})])
        gauge("roost.loop.lag.seconds", "How late the event loop is", lambda: [(pressure.lag, {})])
        gauge("roost.store.durable", "1 when the store keeps every commit through a crash", self._durable)
        gauge("roost.store.answers", "1 while all of the store answers", lambda: [(float(fleet.store_answers), {})])
        gauge("roost.workers.live", "Workers with a lease", self._live)
        gauge("roost.admission.held.steps", "Steps that the gate holds in this gateway", lambda: self._held(1))
        gauge("roost.admission.held.tokens", "KV tokens that these need", lambda: self._held(2))
        gauge("roost.working_set.tokens", "KV tokens that live sessions need", lambda: self._working_set("live_tokens"))
        gauge("roost.working_set.limit", "KV tokens that they may need", lambda: self._working_set("live_limit"))

    def _durable(self) -> list[tuple[float, dict[str, str]]]:
        health = self.fleet.health
        return [(float(health.durable), {})] if health is not None else []

    def _held(self, figure: int) -> list[tuple[float, dict[str, str]]]:
        return [(float(row[figure]), {"pool": row[0]}) for row in self.steps.held()]

    def _working_set(self, figure: str) -> list[tuple[float, dict[str, str]]]:
        """A figure of each worker of the pools that have a gate."""
        pools, workers = self.fleet.pools, self.fleet.workers
        gated = [pool for pool in pools.names if (document := pools.known(pool)) and document.has_gate]
        return [
            (float(getattr(worker, figure)), {"pool": pool, "worker": worker.worker_id})
            for pool in gated
            for worker in workers.states(pool)
        ]

    def _live(self) -> list[tuple[float, dict[str, str]]]:
        return [(float(len(self.fleet.workers.states(pool))), {"pool": pool}) for pool in self.fleet.pools.names]


def _reached(part: T | None) -> T:
    if part is None:
        raise StoreAwayError("the store has not been reached since the start")
    return part


async def reach_store(url: str) -> SessionStore:
    """Connects, again and again while Redis does not answer. Raises ValueError for an invalid URL."""
    warned = False
    while True:
        try:
            return await connect(url)
        except StoreAwayError as error:
            if not warned:
                log.warning("the session store does not answer yet: %s", error)
            warned = True
        await asyncio.sleep(CONNECT_RETRY_SECONDS)
