"""Whether a failed call is sent again, and after which wait. Pure: time is passed in."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from roost.errors import AnotherStepRunningError, OverloadedError, RoostError, UnavailableError


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How a failed call is retried. Times are seconds.

    Every call is idempotent, so it is safe to send it again: at once to each other gateway, then after a growing wait
    with jitter.
    """

    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    multiplier: float = 2.0
    give_up_after: float = 60.0
    """The error is raised after so many seconds of failures without new output, or at the deadline if that is sooner; 0
    never retries. The time for which a worker has a step without deltas does not count, since no output shows then that
    it goes on."""

    def __post_init__(self) -> None:
        if not 0 < self.initial_backoff <= self.max_backoff:
            raise ValueError("RetryConfig needs 0 < initial_backoff <= max_backoff")
        if self.multiplier < 1 or self.give_up_after < 0:
            raise ValueError("RetryConfig needs multiplier >= 1 and give_up_after >= 0")


class Patience:
    """Decides for one call whether to send it again, and when, or to raise.

    `gateways` is the number of gateways that can be tried without a wait; `deadline` is the time at which the call
    ends, None for never. `straggler_seconds` is how long a step that the caller left early may still block the session.
    """

    def __init__(
        self,
        config: RetryConfig,
        gateways: int,
        deadline: float | None,
        straggler_seconds: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._gateways = gateways
        self._deadline = deadline
        self._straggler_seconds = straggler_seconds
        self._draw = draw
        self.progress()

    def progress(self) -> None:
        """More output has come than ever before, so waits start small again. Nothing else counts as progress: otherwise
        a step that fails at the same place each time would be tried forever."""
        self._failing_since: float | None = None
        self._failures = 0

    def worked(self, seconds: float) -> None:
        """A worker had the step for so long, without showing its output: that was no failure."""
        if self._failing_since is not None:
            self._failing_since += seconds

    def remaining(self, now: float) -> float | None:
        """Seconds until the deadline, at least 0; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def wait_after(self, error: RoostError, now: float) -> float | None:
        """Returns the seconds to wait before the next try, or None when `error` must be raised."""
        limit = self._limit(error)
        if limit is None:
            return None
        wait = self._backoff(error)
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = now
        if now + wait - self._failing_since >= limit:
            return None
        if self._deadline is not None and now + wait >= self._deadline:
            return None
        return wait

    def _limit(self, error: RoostError) -> float | None:
        """Seconds of failures after which `error` is raised; None raises it at once.

        Overload is retried only when the gateway gave a reason and a time: gRPC itself uses the same status for
        messages over its size limit, which retrying cannot help.
        """
        if isinstance(error, AnotherStepRunningError):
            return min(self._straggler_seconds, self._config.give_up_after)
        if isinstance(error, OverloadedError) and (not error.reason or error.retry_after is None):
            return None
        return self._config.give_up_after if isinstance(error, (OverloadedError, UnavailableError)) else None

    def _backoff(self, error: RoostError) -> float:
        """0 while other gateways are untried and none has asked to wait; else exponential, half of it random.

        A straggler is not waited for as long as the gateway says, which is its whole lease: mostly it ends sooner.
        """
        straggler = isinstance(error, AnotherStepRunningError)
        if error.retry_after is None and self._failures + 1 < self._gateways:
            return 0.0
        grown = self._config.initial_backoff * self._config.multiplier ** min(self._failures, 64)
        backoff = min(self._config.max_backoff, grown)
        asked = 0.0 if straggler else error.retry_after or 0.0
        return asked + backoff * (0.5 + 0.5 * self._draw())
