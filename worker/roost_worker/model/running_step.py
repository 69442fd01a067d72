"""A decode step that a GPU computes while the host goes on."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from roost_worker.engine.plan import BatchResult, Chunk, Sampled


class StepTimes:
    """Tells how long the device took for each step, though the next is begun before one has ended."""

    def __init__(self) -> None:
        self._last_end = 0.0

    def end(self, begun: float) -> float:
        """Return the seconds of a step that was begun at `begun` and ends now, without those of the step before it."""
        last_end, self._last_end = self._last_end, time.perf_counter()
        return self._last_end - max(begun, last_end)


class RunningStep:
    """Implements `engine.plan.RunningBatch`."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        tokens: Tensor,
        take: Callable[[Sequence[Chunk], Tensor], tuple[Sampled, ...]],
        begun: float,
        times: StepTimes,
    ) -> None:
        """`tokens` [chunks] are copied at once, as far as the host is concerned; `take` makes results of them."""
        self._chunks, self._take, self._begun, self._times = chunks, take, begun, times
        self._copied: torch.cuda.Event | None = None
        # The next step overwrites `tokens`, and only to pinned memory a GPU copies asynchronously.
        self._tokens = torch.empty_like(tokens, device="cpu", pin_memory=tokens.is_cuda)
        self._tokens.copy_(tokens, non_blocking=True)
        if tokens.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
            self._copied.record()

    def result(self) -> BatchResult:
        """Wait for the tokens. Call it once, in the order in which steps were begun."""
        if self._copied is not None:
            self._copied.synchronize()
        sampled = self._take(self._chunks, self._tokens)
        return BatchResult(sampled, self._times.end(self._begun))
