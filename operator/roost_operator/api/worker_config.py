"""The worker's configuration of an `AgentPool`. Pure."""

from pathlib import Path

from roost_operator.api.quantity import memory_bytes, optional_memory_bytes
from roost_operator.api.spec import AgentPool
from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig


def worker_config(
    pool: AgentPool,
    *,
    store_url: str,
    pool_secret: str,
    host: str = "127.0.0.1",
    port: int = 0,
    metrics_port: int | None = None,
    cache_dir: Path | None = None,
) -> WorkerConfig:
    """The configuration shared by all workers of `pool`. Raises ValueError when a value is out of range."""
    model = pool.spec.model
    return WorkerConfig(
        pool=pool.pool,
        model=ModelConfig(
            name=model.name,
            source=model.source,
            dtype=model.dtype,
            tensor_parallel=model.tensor_parallel,
            context_tokens=model.context_tokens,
            determinism=model.determinism,
            quantization=model.quantization,
        ),
        kv=KvConfig(
            block_tokens=model.kv_cache.block_tokens,
            memory_bytes=memory_bytes(model.kv_cache.memory),
            eviction_policy=model.kv_cache.eviction_policy,
            host_memory_bytes=optional_memory_bytes(model.kv_cache.host_memory),
            dtype=model.kv_cache.dtype,
        ),
        engine=EngineConfig(
            max_running=model.engine.max_running,
            max_batch_tokens=model.engine.max_batch_tokens,
            step_goal_seconds=model.engine.step_goal_milliseconds / 1000,
            kernels=model.engine.kernels,
        ),
        store_url=store_url,
        pool_secret=pool_secret,
        host=host,
        port=port,
        metrics_port=metrics_port,
        drain_seconds=float(pool.spec.workers.drain_timeout_seconds),
        cache_dir=cache_dir,
    )
