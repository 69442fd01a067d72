"""A decode step that a GPU computes while the host goes on."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from roost_worker.engine.plan import BatchResult, Chunk, Sampled
from roost_worker.model.device_time import timed_event


class RunningStep:
    """Implements `engine.plan.RunningBatch`."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        draw: Callable[[], Tensor],
        take: Callable[[Sequence[Chunk], Tensor], tuple[Sampled, ...]],
        device: torch.device,
    ) -> None:
        """Launch the step.

        Args:
            draw: launches it on `device`; returns its tokens, [chunks] int64, which the next step may overwrite.
            take: makes results of tokens on the host.
        """
        self._chunks, self._take = chunks, take
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        begun = time.perf_counter()
        if device.type == "cuda":
            self._events = (timed_event(), timed_event())
            self._events[0].record()
        tokens = draw()
        # Only to pinned memory a GPU copies asynchronously.
        self._tokens = torch.empty_like(tokens, device="cpu", pin_memory=device.type == "cuda")
        self._tokens.copy_(tokens, non_blocking=True)
        if self._events:
            self._events[1].record()
        self._seconds = time.perf_counter() - begun

    def result(self) -> BatchResult:
        """Wait for the tokens. The result's seconds are the time that the device computed, without the host's."""
        if self._events:
            begun, ended = self._events
            ended.synchronize()
            self._seconds = begun.elapsed_time(ended) / 1000
        return BatchResult(self._take(self._chunks, self._tokens), self._seconds)
