"""One gateway's life: reach the store, know the workers, keep attempts alive, and let go of them in order."""

import asyncio
import logging
from collections.abc import Callable

from roost.store.interface import SessionStore
from roost.store.records import StoreUnavailableError
from roost.store.redis_store import connect
from roost_gateway.config import GatewayConfig, PoolSecrets
from roost_gateway.core.parts import Parts
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.facts import FactsCache
from roost_gateway.step.steps import Steps
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

CONNECT_RETRY_SECONDS = 0.5
FINISH_SECONDS = 3.0
"""How long a stopping gateway waits for cancels and aborts that are under way."""


async def reach_store(url: str) -> SessionStore:
    """Connects, again and again while Redis does not answer. Raises ValueError for a URL that is none."""
    told = False
    while True:
        try:
            return await connect(url)
        except StoreUnavailableError as error:
            if not told:
                log.warning("the session store does not answer yet: %s", error)
            told = True
        await asyncio.sleep(CONNECT_RETRY_SECONDS)


async def start_parts(
    config: GatewayConfig, store: SessionStore, telemetry: Telemetry, on_change: Callable[[], None]
) -> Parts:
    """Makes and starts the parts. `on_change` is called whenever pools and workers were read."""
    fleet, facts = Fleet(store, config.pools, PoolSecrets(config)), FactsCache(store)
    steps = Steps(store, fleet, facts, telemetry)

    def changed(pool: str) -> None:
        steps.workers_changed(pool)
        on_change()

    fleet.on_change = changed
    parts = Parts(config=config, store=store, fleet=fleet, steps=steps, facts=facts, telemetry=telemetry)
    await fleet.start()
    parts.pressure.start()
    _add_gauges(parts)
    return parts


async def stop_parts(parts: Parts) -> None:
    """Ends everything that runs by itself, then the connections."""
    await parts.steps.aclose(FINISH_SECONDS)
    await parts.pressure.aclose()
    await parts.fleet.aclose()
    await parts.store.aclose()


def _add_gauges(parts: Parts) -> None:
    gauge = parts.telemetry.gauge
    gauge("roost.queue.length", "Steps that wait for room in this gateway", parts.steps.waiting)
    gauge("roost.attempts.live", "Steps that run through this gateway", lambda: [(float(len(parts.steps)), {})])
    gauge("roost.loop.lag.seconds", "How late the event loop is", lambda: [(parts.pressure.lag, {})])
    gauge("roost.store.durable", "1 when the store keeps every commit through a crash", lambda: _durable(parts))
    gauge("roost.store.answers", "1 while the store answers", lambda: [(float(parts.fleet.store_answers), {})])
    gauge("roost.workers.live", "Workers with a lease", lambda: _live(parts))


def _durable(parts: Parts) -> list[tuple[float, dict[str, str]]]:
    health = parts.fleet.health
    return [(float(health.durable), {})] if health is not None else []


def _live(parts: Parts) -> list[tuple[float, dict[str, str]]]:
    return [(float(len(parts.fleet.workers.states(pool))), {"pool": pool}) for pool in parts.fleet.pools.names]
