"""Which pools are reconciled when, what metrics tell of it, and when the operator says that it is stuck."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import kopf
import pytest
from prometheus_client import generate_latest

from kubeconfigs import write_kubeconfig
from redis_servers import free_port
from roost_operator.kubernetes import controller, handlers
from roost_operator.kubernetes.metrics import Metrics, Result
from roost_operator.kubernetes.reconciliations import Reconciliations

WAIT = 60.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_pool_is_reconciled_once_at_a_time_and_once_more_when_it_changed_meanwhile() -> None:
    going, gate, log = asyncio.Event(), asyncio.Event(), []

    async def reconcile(namespace: str, name: str) -> bool:
        log.append(name)
        going.set()
        await gate.wait()
        return True

    pools = Reconciliations(reconcile)
    pools.wake("n", "a")
    await asyncio.wait_for(going.wait(), WAIT)
    for _ in range(3):
        pools.wake("n", "a")
    pools.wake("n", "b")
    await asyncio.sleep(0)
    assert pools.depth >= 1, "a waits for itself"
    gate.set()
    await until(lambda: log.count("a") == 2 and pools.standing_since() is None)
    assert sorted(log) == ["a", "a", "b"]
    assert pools.depth == 0
    await pools.aclose()


async def test_no_more_than_some_are_reconciled_at_once() -> None:
    running, most, gate = 0, 0, asyncio.Event()

    async def reconcile(namespace: str, name: str) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return True

    pools = Reconciliations(reconcile, at_once=3)
    for number in range(10):
        pools.wake("n", str(number))
    await until(lambda: pools.depth == 7)
    gate.set()
    await until(lambda: pools.standing_since() is None)
    assert most == 3
    await pools.aclose()


async def test_a_failure_is_tried_again() -> None:
    tries, done = 0, asyncio.Event()

    async def reconcile(namespace: str, name: str) -> bool:
        nonlocal tries
        tries += 1
        if tries < 2:
            raise OSError("away")
        done.set()
        return True

    pools = Reconciliations(reconcile)
    pools.wake("n", "a")
    await asyncio.wait_for(done.wait(), WAIT)
    await pools.aclose()


async def test_a_pool_that_is_gone_has_no_task_and_gets_one_when_it_comes_back() -> None:
    exists, count = False, 0

    async def reconcile(namespace: str, name: str) -> bool | None:
        nonlocal count
        count += 1
        return exists or None

    pools = Reconciliations(reconcile)
    pools.wake("n", "a")
    await until(lambda: count == 1 and not pools._tasks)
    exists = True
    pools.wake("n", "a")
    await until(lambda: count == 2)
    assert len(pools._tasks) == 1
    await pools.aclose()


async def test_a_reconciliation_that_does_not_end_stands_still() -> None:
    going = asyncio.Event()

    async def reconcile(namespace: str, name: str) -> None:
        going.set()
        await asyncio.Event().wait()

    pools = Reconciliations(reconcile, at_once=1)
    assert pools.standing_since() is None, "nothing to do is not standing still"
    pools.wake("n", "a")
    await asyncio.wait_for(going.wait(), WAIT)
    began = pools.standing_since()
    assert began is not None
    pools.wake("n", "b")
    await asyncio.sleep(0)
    assert pools.standing_since() == began
    await pools.aclose()
    assert pools.depth == 0


async def test_pools_that_are_not_reconciled_stand_still() -> None:
    async def reconcile(namespace: str, name: str) -> None: ...

    pools = Reconciliations(reconcile, at_once=0)
    pools.wake("n", "a")
    assert pools.standing_since() is not None
    await pools.aclose()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """Ports of an operator whose API server does not answer."""
    ports = {"liveness": free_port(), "metrics": free_port()}
    cluster = {"server": f"http://127.0.0.1:{free_port()}"}
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", cluster, {"token": "t"})))
    monkeypatch.setenv("ROOST_POOL_KEY", "k" * 32)
    monkeypatch.setenv("ROOST_METRICS_HOST", "127.0.0.1")
    monkeypatch.setenv("ROOST_METRICS_PORT", str(ports["metrics"]))
    return ports


@asynccontextmanager
async def running(port: int) -> AsyncIterator[str]:
    """The URL of its probe."""
    assert handlers
    url, stop = f"http://127.0.0.1:{port}/healthz", asyncio.Event()
    operator = asyncio.create_task(kopf.operator(clusterwide=True, liveness_endpoint=url, stop_flag=stop))
    try:
        yield url
    finally:
        stop.set()
        await operator


def ask(url: str) -> tuple[int, str]:
    """Status and text, once it listens."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            time.sleep(0.05)


async def test_an_operator_whose_api_server_does_not_answer_is_alive(
    settings: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(settings["liveness"]) as url:
        assert await asyncio.to_thread(ask, url) == (200, '{"stuck": {}}')
    assert "/healthz" not in caplog.text, "a line for each probe says nothing"


async def test_an_operator_that_stands_still_fails_its_probe(
    settings: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(controller, "STUCK_SECONDS", -1.0)
    async with running(settings["liveness"]) as url:
        status, _ = await asyncio.to_thread(ask, url)
        assert status == 500
        assert "no progress for so many seconds: {'leadership': " in caplog.text
        monkeypatch.setattr(controller, "STUCK_SECONDS", WAIT)
        assert (await asyncio.to_thread(ask, url))[0] == 200


@pytest.mark.parametrize("port", ["liveness", "metrics"])
def test_an_operator_whose_port_is_taken_ends(
    settings: dict[str, int], port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOST_LIVENESS", f"http://127.0.0.1:{settings['liveness']}/healthz")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with socket.create_server(("127.0.0.1", settings[port])):
        command = [sys.executable, "-m", "roost_operator"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT, check=False)
    assert ended.returncode == 1
    assert "the operator ends: [Errno 98]" in ended.stderr


def test_metrics_tell_depth_leadership_and_times_by_result() -> None:
    metrics = Metrics()
    metrics.depth_from(lambda: 3)
    metrics.lead(True)
    metrics.changed(2)
    for result in (Result.CHANGED, Result.UNCHANGED, Result.UNCHANGED):
        with metrics.reconciling() as report:
            report(result)
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
