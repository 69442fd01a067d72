"""What a worker's work costs, in seconds. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite


@dataclass(frozen=True, slots=True)
class WorkerCosts:
    """Costs of one worker. The defaults are an 8B model in bf16 on one H100: 16 GB of weights and 128 KiB of KV a
    token, read at 3.3 TB/s, and copied from and to host memory at 50 GB/s (PCIe 5)."""

    prompt_seconds: float = 0.005
    """Of each prompt, however short."""
    prefill_token_seconds: float = 4e-5
    prefill_pair_seconds: float = 1.3e-9
    """Of each pair of a prompt token and a token that it attends to."""
    step_seconds: float = 0.006
    """Of each batch: reading the weights, launching kernels."""
    row_seconds: float = 2e-5
    """Of each decoding sequence in a batch."""
    kv_token_seconds: float = 4e-8
    """Of each token of context whose KV a batch reads."""
    copy_token_seconds: float = 2.6e-6
    """Of each token whose KV is copied between the device and host memory, whichever way."""
    chunk_tokens: int = 2048
    """Most tokens of a prompt in one batch."""

    def __post_init__(self) -> None:
        """Raise ValueError when a cost is below 0 or no number, or work takes no time."""
        for name, cost in asdict(self).items():
            if not isfinite(cost) or cost < 0:
                raise ValueError(f"{name} must be a number of at least 0, not {cost}")
        positive = self.step_seconds, self.prefill_token_seconds, self.copy_token_seconds
        if min(positive) <= 0 or self.chunk_tokens < 1:
            raise ValueError(
                "step_seconds, prefill_token_seconds and copy_token_seconds must be above 0, chunk_tokens at least 1"
            )

    @property
    def prefill_rate(self) -> float:
        """Tokens per second of a prompt that fills a batch, as an idle worker measures it."""
        return self.chunk_tokens / (self.step_seconds + self.prefill_seconds(self.chunk_tokens, 0))

    @property
    def pair_cost(self) -> float:
        """As in a worker's `RunnerInfo`: of a pair of tokens, as a share of what a token costs by itself."""
        return self.prefill_pair_seconds / self.prefill_token_seconds

    def prefill_seconds(self, tokens: int, cached: int) -> float:
        """Return the time to compute `tokens` of a prompt after `cached` ones; 0 for no tokens."""
        if tokens <= 0:
            return 0.0
        pairs = tokens * (cached + tokens / 2)
        return self.prompt_seconds + self.prefill_token_seconds * tokens + self.prefill_pair_seconds * pairs

    def batch_seconds(self, rows: int, kv_tokens: float) -> float:
        """Return the time of a batch that decodes `rows` sequences with `kv_tokens` of context altogether."""
        return self.step_seconds + self.row_seconds * rows + self.kv_token_seconds * kv_tokens


def qwen3_coder_30b_a3b() -> WorkerCosts:
    """Return the costs of Qwen3-Coder-30B-A3B in FP8 on two H100 (TP=2), from its sizes; nothing is measured.

    It has 48 layers, 32 query and 4 KV heads of 128, and 8 of 128 experts active: 3.3 of 30.5 billion parameters. Two
    H100 read 6.6 TB/s.

    - KV in FP8 is 48 KiB a token: 7.4 ns. (2.24 million tokens are 110 GB, what 30 GB of weights leave of two GPUs.)
    - A prompt's token is 6.6 GFLOP, at 1.6 PFLOP/s: 40 % of the peak, as the default costs take it, too.
    - A pair of tokens is 48 x 32 x 128 x 4 = 786 kFLOP, at the 2.4 PFLOP/s that FlashAttention-3's authors
      (arXiv 2407.08608) give for two of these GPUs in FP8.
    - A batch launches 48 layers with two all-reduces each and reads what is not an expert: 4 ms. Each sequence reads
      experts of its own, 0.29 ms alone and less the more share them: 0.15 ms, their mean up to 30 sequences.
    - Each GPU copies its half of a token's KV at 50 GB/s (PCIe 5): 0.5 us.
    - A batch computes up to 8,192 tokens of a prompt, vLLM's default for a server on H100.
    """
    return WorkerCosts(
        prefill_token_seconds=4.2e-6,
        prefill_pair_seconds=3.3e-10,
        step_seconds=0.004,
        row_seconds=1.5e-4,
        kv_token_seconds=7.4e-9,
        copy_token_seconds=5e-7,
        chunk_tokens=8192,
    )


DEFAULT_COSTS = "8b-h100"
COSTS: Mapping[str, WorkerCosts] = {
    DEFAULT_COSTS: WorkerCosts(),
    "qwen3-coder-30b-a3b-2xh100": qwen3_coder_30b_a3b(),
}
"""Costs by the name that commands take."""
