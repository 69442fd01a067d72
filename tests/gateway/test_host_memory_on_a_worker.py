"""A session goes to host memory and comes back. Gateway, worker, engine, model and Redis are real."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import worker_harness
from fault_stack import until
from gateway_driver import Caller, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from roost_worker.config import KvConfig, WorkerConfig
from roost_worker.engine import host_tier
from roost_worker.model.runner import build_runner
from roost_worker.seam.client import EngineClient
from roost_worker.seam.thread_engine import start_thread_engine
from roost_worker.server.server import WorkerServer
from worker_harness import SECRET, worker_config

POOL = worker_harness.POOL
BLOCK, CONTEXT = 16, 256
BLOCK_BYTES = 8192
"""Of the tiny model in float32."""
KV = KvConfig(BLOCK, (CONTEXT // BLOCK + 1) * BLOCK_BYTES, host_memory_bytes=64 * BLOCK_BYTES)
WHOLE_CONTEXT = pb.Sampling(max_tokens=CONTEXT, ignore_eos=True)
SHORT = pb.Sampling(max_tokens=8, ignore_eos=True)


async def start_engine(config: WorkerConfig, model_dir: Path) -> EngineClient:
    return await start_thread_engine(lambda: build_runner(config, model_dir), config)


async def in_tier(caller: Caller, session: pb.Session, tier: "pb.Tier.ValueType") -> pb.Session:
    """The session as it is once the worker has published where it is."""
    current = session

    async def shown() -> bool:
        nonlocal current
        current = await caller.get(session.id)
        return current.tier == tier

    await until(shown, f"the session in tier {tier}")
    return current


async def test_a_session_in_host_memory_is_shown_as_warm_and_its_next_step_computes_only_what_is_new(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(host_tier, "copying_pays", lambda *_rates: True)  # a busy machine may measure that it does not
    publish_pool(redis_server, POOL, model={"name": "m", "contextTokens": CONTEXT})
    worker = WorkerServer(worker_config(redis_server.url, tmp_path, CONTEXT, kv=KV), start_engine)
    async with AsyncExitStack() as stack:
        await worker.start()
        stack.push_async_callback(worker.stop)
        server = await stack.enter_async_context(gateway(redis_server, pool_secrets={POOL: SECRET}))
        caller = Caller(server.address)
        stack.push_async_callback(caller.aclose)
        session = await caller.open(pool=POOL)
        first = await caller.step(step_request(session, "first", "a" * 100, sampling=SHORT))
        assert first.committed is not None
        length = first.committed.head.length
        crowd = await caller.open(pool=POOL)
        await caller.step(step_request(crowd, "crowd", "b" * 150, sampling=WHOLE_CONTEXT))
        warm = await in_tier(caller, session, pb.TIER_WARM)
        whole_blocks = (length - 1) // BLOCK * BLOCK
        assert warm.cached_tokens == whole_blocks
        second = await caller.step(
            step_request(session, "second", "c", expected_head=first.committed.head, sampling=SHORT)
        )
        assert second.committed is not None
        usage = second.committed.usage
        assert usage.cached_tokens == whole_blocks
        assert usage.reconstructed_tokens == length - 1 - whole_blocks
        assert worker.shell.stats.restored_blocks == whole_blocks // BLOCK
        hot = await in_tier(caller, session, pb.TIER_HOT)
        assert hot.cached_tokens == second.committed.head.length - 1
