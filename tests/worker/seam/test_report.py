"""The lines that the engine writes to the log."""

import logging
from queue import SimpleQueue

import pytest

from paged_fake_runner import PagedFakeRunner
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import EngineInfo, EngineStats
from roost_worker.seam.engine_loop import Close, EngineLoop, Inbox, start_up_line
from roost_worker.seam.report import StatsLog, stats_line

BEFORE = EngineStats(
    blocks_free=10, batches=5, generated_tokens=100, prefilled_tokens=50, lookup_tokens=40, hit_tokens=40
)
NOW = EngineStats(
    running=3,
    waiting=2,
    blocks_free=2,
    blocks_cached=3,
    blocks_in_use=5,
    lookup_tokens=140,
    hit_tokens=65,
    generated_tokens=350,
    prefilled_tokens=1050,
    batches=9,
)


def test_a_loop_that_became_idle_still_reports_what_it_did() -> None:
    inbox: Inbox = SimpleQueue()
    seen: list[EngineStats] = []

    class Log(StatsLog):
        def update(self, stats: EngineStats) -> None:
            seen.append(stats)
            inbox.put(Close())

    engine = Engine(PagedFakeRunner(8, 16, 64), EngineConfig(4, 16), 64)
    EngineLoop(engine, inbox, lambda frame: None, Log()).run()
    assert [stats.batches for stats in seen] == [0]


def test_start_up_line_tells_capacity_in_tokens_and_sessions() -> None:
    info = EngineInfo(5000, 32, 157, 1, 100, 2048, "cpu")
    assert start_up_line(info) == "KV cache 5000 tokens: 2.4 sessions at 2048"


def test_line_tells_what_happened_since_the_last() -> None:
    assert stats_line(BEFORE, NOW, 10.0) == (
        "25.0 tokens/s, prefill 100.0 tokens/s, running 3, waiting 2, KV 50% in use and 30% cached, hit ratio 25%"
    )


def test_a_line_per_period_and_none_when_nothing_ran(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = StatsLog(clock=lambda: now)
    caplog.set_level(logging.INFO)
    for now, batches in ((9.0, 3), (10.0, 4), (19.0, 8), (20.0, 4), (31.0, 5)):
        log.update(EngineStats(blocks_free=1, batches=batches, running=int(now)))
    assert [record.message.split(", ")[2] for record in caplog.records] == ["running 10", "running 31"]
