"""`python -m roost_worker`: a real model in real processes, its end by signal, by a dead rank, by bad configuration."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest

from redis_servers import RedisServer
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from roost_worker.convert.source import parse_source
from roost_worker.convert.store import ModelStore, _key
from roost_worker.server.config_file import config_from
from worker_harness import POOL, SECRET, WAIT, Ledger, Stream, reason

START = 120.0


def document(store_url: str, cache: Path) -> dict[str, object]:
    return {
        "pool": POOL,
        "model": {"name": "dummy", "source": "dummy://llama-tiny", "dtype": "float32", "context_tokens": 2048},
        "kv": {"block_tokens": 16, "memory_bytes": 4 << 20},
        "store_url": store_url,
        "pool_secret": SECRET,
        "drain_seconds": 60,
        "cache_dir": str(cache),
    }


@dataclass
class WorkerProcess:
    process: asyncio.subprocess.Process
    address: str
    worker_id: str

    @property
    def ranks(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@pytest.fixture
async def worker(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    config = tmp_path / "worker.json"
    config.write_text(json.dumps(document(redis_server.url, tmp_path / "cache")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roost_worker", "--config", str(config)),
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START)
        announced = json.loads(line)
        yield WorkerProcess(process, announced["address"], announced["worker_id"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start(stub: pb_grpc.WorkerServiceStub, ledger: Ledger, tokens: int) -> Stream:
    stream = Stream(stub)
    await stream.send(
        start=pb.Start(
            attempt=ledger.next_attempt(),
            session=ledger.ref(),
            tenant="tenant",
            messages=[api.Message(role=api.MESSAGE_ROLE_USER, content="Tell me a story.")],
            sampling=api.Sampling(seed=1, max_tokens=tokens, ignore_eos=True),
        )
    )
    return stream


async def test_a_dead_rank_ends_the_streams_the_lease_and_the_worker(worker: WorkerProcess, redis_server: RedisServer):
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stream = await start(pb_grpc.WorkerServiceStub(channel), Ledger(), 1500)
        await stream.until("delta")
        (rank,) = worker.ranks
        rank.kill()
        error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    assert await asyncio.wait_for(worker.process.wait(), WAIT) == 1
    with redis_server.client() as client:
        assert client.exists(PoolKeys(POOL).lease(worker.worker_id)) == 0


async def test_a_signal_drains_what_runs_and_leaves_no_process(worker: WorkerProcess):
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stub = pb_grpc.WorkerServiceStub(channel)
        ledger = Ledger()
        first = await start(stub, ledger, 5)
        await first.until("finished")
        await first.commit(ledger.commit([*first.accepted.prompt_token_ids, *first.out.ids]))
        second = await start(stub, ledger, 100)
        await second.until("delta")
        ranks = worker.ranks
        worker.process.send_signal(signal.SIGTERM)
        await second.until("finished")
        assert (second.finished.output_tokens, second.finished.cached_tokens) == (100, len(ledger.ids) - 1)
        await second.commit(ledger.commit([*second.accepted.prompt_token_ids, *second.out.ids]))
    assert await asyncio.wait_for(worker.process.wait(), WAIT) == 0
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modell": {}}, "modell is unknown; did you mean model?"),
        ({"zzz": 1}, "zzz is unknown; known are pool, model"),
        ({"model": {"name": "m", "sourc": "x"}}, "model.sourc is unknown; did you mean model.source?"),
        ({"model": {"name": "m"}}, "model.source is missing"),
        ({"model": {"name": "m", "source": "x", "context_tokens": "9"}}, "model.context_tokens must be a whole number"),
        ({"drain_seconds": "long"}, "drain_seconds must be a number, not 'long'"),
        ({"metrics_port": True}, "metrics_port must be a whole number or null, not True"),
        ({"model": 5}, "model must be an object of name"),
        ({"kv": {"block_tokens": 20}}, "kvCache.blockTokens: 20 must be one of"),
        ({"engine": {"max_draft_tokens": -1}}, "engine.max_draft_tokens: -1 must not be negative; 0 guesses none"),
        ({"engine": {"max_forced_tokens": -1}}, "engine.max_forced_tokens: -1 must not be negative; 0 draws each"),
        (
            {"kv": {"eviction_policy": "lru"}},
            "kvCache.evictionPolicy: 'lru' is unknown; use one of LRUSparingHeld, LRU, LearnedReturns",
        ),
    ],
)
def test_a_configuration_that_cannot_be_served_names_the_field(tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        config_from({**document("redis://127.0.0.1:1", tmp_path), **change})


def test_a_start_that_fails_is_one_line_and_exit_status_2(tmp_path: Path):
    config = tmp_path / "worker.json"
    config.write_text(json.dumps({**document("redis://127.0.0.1:1", tmp_path), "host": "0.0.0.0", "pool_secret": ""}))
    command = [sys.executable, "-m", "roost_worker", "--config", str(config)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=START)
    assert run.returncode == 2
    assert run.stderr == "error: host: 0.0.0.0 needs pool_secret; without one a worker listens on 127.0.0.1 only\n"


def test_the_shell_imports_no_torch():
    code = (
        "import sys, roost_worker.__main__, roost_worker.server.server;"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


async def test_a_signal_while_it_starts_ends_it_at_once(tmp_path: Path):
    """Another process holds the model's lock: preparing it would take forever."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    source = f"file://{tmp_path}/model.gguf"
    config = tmp_path / "worker.json"
    model = {"name": "m", "source": source, "dtype": "float32"}
    config.write_text(json.dumps({**document("redis://127.0.0.1:1", tmp_path), "model": model}))
    with ModelStore(tmp_path)._lock(_key("lock", str(parse_source(source))), lambda stage, fraction: None):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roost_worker", "--config", str(config)), stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        while b"waiting for another process" not in (line := await asyncio.wait_for(process.stderr.readline(), START)):
            assert line
        process.terminate()
        assert await asyncio.wait_for(process.wait(), WAIT) == 0
        await process.communicate()
