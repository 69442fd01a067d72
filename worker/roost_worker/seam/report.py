"""Logs a line about the engine every ten seconds while it works."""

import logging
import time
from collections.abc import Callable

from roost_worker.engine.messages import EngineStats

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 10.0


def stats_line(before: EngineStats, now: EngineStats, seconds: float) -> str:
    """Describe what happened in the `seconds` between two snapshots, and the state now."""
    generated = (now.generated_tokens - before.generated_tokens) / seconds
    prefilled = (now.prefilled_tokens - before.prefilled_tokens) / seconds
    lookup = now.lookup_tokens - before.lookup_tokens
    hits = (now.hit_tokens - before.hit_tokens) / lookup if lookup else 0.0
    blocks = now.blocks_free + now.blocks_cached + now.blocks_in_use
    return (
        f"{generated:.1f} tokens/s, prefill {prefilled:.1f} tokens/s, running {now.running}, waiting {now.waiting}, "
        f"KV {now.blocks_in_use / blocks:.0%} in use and {now.blocks_cached / blocks:.0%} cached, hit ratio {hits:.0%}"
    )


class StatsLog:
    """Logs a line for each period in which the engine ran."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._time = clock()
        self._stats = EngineStats()

    def update(self, stats: EngineStats) -> None:
        """Take a snapshot; log a line when a period is over."""
        now = self._clock()
        if now - self._time < PERIOD_SECONDS:
            return
        if stats.batches > self._stats.batches:
            logger.info(stats_line(self._stats, stats, now - self._time))
        self._time, self._stats = now, stats
