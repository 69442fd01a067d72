"""What a worker's work costs, in seconds. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerCosts:
    """Costs of one worker. The defaults are an 8B model in bf16 on one H100: 16 GB of weights and 128 KiB of KV a
    token, read at 3.3 TB/s."""

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
    chunk_tokens: int = 2048
    """Most tokens of a prompt in one batch."""

    def __post_init__(self) -> None:
        if self.step_seconds <= 0 or self.prefill_token_seconds <= 0 or self.chunk_tokens < 1:
            raise ValueError("step_seconds and prefill_token_seconds must be above 0, chunk_tokens at least 1")

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
