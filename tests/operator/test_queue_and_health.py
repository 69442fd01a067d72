"""Which pools are reconciled when, what metrics tell of it, and when the operator says that it is stuck."""

import asyncio
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import generate_latest

from redis_servers import free_port
from roost_operator.kubernetes.health import Health
from roost_operator.kubernetes.metrics import Metrics, Result
from roost_operator.kubernetes.work_queue import Queue

WAIT = 30.0


async def test_a_pool_is_reconciled_once_at_a_time_and_once_more_when_it_changed_meanwhile() -> None:
    going, gate, log = asyncio.Event(), asyncio.Event(), []

    async def reconcile(namespace: str, name: str) -> None:
        log.append(name)
        going.set()
        await gate.wait()

    queue = Queue(reconcile, workers=3)
    running = asyncio.create_task(queue.run())
    queue.ask("n", "a")
    await asyncio.wait_for(going.wait(), WAIT)
    for _ in range(3):
        queue.ask("n", "a")
    queue.ask("n", "b")
    await asyncio.sleep(0)
    assert queue.depth >= 1, "a waits for itself"
    gate.set()
    async with asyncio.timeout(WAIT):
        while log.count("a") < 2 or queue.stuck_since() is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert sorted(log) == ["a", "a", "b"]
    assert queue.depth == 0
    running.cancel()


async def test_a_failure_is_tried_again() -> None:
    tries, done = 0, asyncio.Event()

    async def reconcile(namespace: str, name: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 2:
            raise OSError("away")
        done.set()

    queue = Queue(reconcile)
    running = asyncio.create_task(queue.run())
    queue.ask("n", "a")
    await asyncio.wait_for(done.wait(), WAIT)
    running.cancel()


async def test_a_reconciliation_that_does_not_end_makes_the_queue_stuck() -> None:
    going, health = asyncio.Event(), Health()

    async def reconcile(namespace: str, name: str) -> None:
        going.set()
        await asyncio.Event().wait()

    queue = Queue(reconcile, workers=1)
    health.watch("queue", queue.stuck_since, 0.0)
    assert health.stuck() == {}, "nothing to do is not stuck"
    running = asyncio.create_task(queue.run())
    queue.ask("n", "a")
    await asyncio.wait_for(going.wait(), WAIT)
    assert set(health.stuck()) == {"queue"}
    running.cancel()


async def test_a_queue_that_nobody_works_off_is_stuck() -> None:
    async def reconcile(namespace: str, name: str) -> None: ...

    queue, health = Queue(reconcile), Health()
    queue.ask("n", "a")
    health.watch("queue", queue.stuck_since, 3600.0)
    assert health.stuck() == {}
    health.watch("queue", queue.stuck_since, 0.0)
    assert set(health.stuck()) == {"queue"}


async def test_health_is_answered_over_http() -> None:
    health, port = Health(), free_port()
    url = f"http://127.0.0.1:{port}/healthz"
    runner = await health.serve(url)

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    try:
        health.watch("resync", lambda: time.monotonic(), 60.0)
        assert await asyncio.to_thread(ask) == (200, '{"stuck": {}}')
        health.watch("watch", lambda: time.monotonic() - 100, 60.0)
        status, text = await asyncio.to_thread(ask)
        assert (status, text.startswith('{"stuck": {"watch": 100')) == (503, True)
        health.forget("watch")
        assert (await asyncio.to_thread(ask))[0] == 200
        with pytest.raises(OSError, match=str(port)):
            await Health().serve(url)
    finally:
        await runner.cleanup()


def test_metrics_tell_depth_leadership_and_times_by_result() -> None:
    metrics = Metrics()
    metrics.depth_from(lambda: 3)
    metrics.lead(True)
    metrics.changed(2)
    for result in (Result.CHANGED, Result.UNCHANGED, Result.UNCHANGED):
        with metrics.reconciling() as told:
            told(result)
    with pytest.raises(OSError, match="away"), metrics.reconciling():
        raise OSError("away")
    lines = generate_latest(metrics.registry).decode().splitlines()
    assert {
        "roost_operator_queue_depth 3.0",
        "roost_operator_leader 1.0",
        "roost_operator_mutating_calls_total 2.0",
        'roost_operator_reconcile_seconds_count{result="changed"} 1.0',
        'roost_operator_reconcile_seconds_count{result="unchanged"} 2.0',
        'roost_operator_reconcile_seconds_count{result="failed"} 1.0',
        'roost_operator_reconcile_seconds_count{result="absent"} 0.0',
    } <= set(lines)
