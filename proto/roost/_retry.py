"""When a failed call is sent again, and how long to wait before. Pure: time is passed in."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from roost.errors import AnotherStepRunningError, OverloadedError, RoostError, UnavailableError


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How the SDK waits between tries. Times are seconds.

    Every call of the SDK is idempotent, so a lost answer is always worth another try: at once on each further
    gateway, then after a growing wait with jitter.
    """

    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    multiplier: float = 2.0
    give_up_after: float = 60.0
    """Seconds of failures, without any output between them, after which the error is raised; 0 never tries twice.
    A deadline ends sooner."""

    def __post_init__(self) -> None:
        if not 0 < self.initial_backoff <= self.max_backoff:
            raise ValueError("RetryConfig needs 0 < initial_backoff <= max_backoff")
        if self.multiplier < 1 or self.give_up_after < 0:
            raise ValueError("RetryConfig needs multiplier >= 1 and give_up_after >= 0")


class Patience:
    """Decides about one call: again, and when, or raise.

    `gateways` is how many can be tried at once; `deadline` is the time at which the call ends, None for never.
    `straggler_seconds` is how long a step of the caller's own may be in the way that it has left, and of which the
    gateway may not have heard.
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
        """Output has come: waits are small again. Other signs of life do not count, for a worker that is accepted and
        lost in turn must not be tried without end."""
        self._failing_since: float | None = None
        self._failures = 0

    def remaining(self, now: float) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def wait_after(self, error: RoostError, now: float) -> float | None:
        """Seconds to wait before the next try; None when `error` is to be raised."""
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
        """Seconds of failures after which `error` is raised; None for at once.

        Overload is worth a wait only when the gateway said so and when to come back: gRPC gives the same status to
        messages over its size limit, which no wait can help.
        """
        if isinstance(error, AnotherStepRunningError):
            return min(self._straggler_seconds, self._config.give_up_after)
        if isinstance(error, OverloadedError) and (not error.reason or error.retry_after is None):
            return None
        return self._config.give_up_after if isinstance(error, (OverloadedError, UnavailableError)) else None

    def _backoff(self, error: RoostError) -> float:
        """At once while other gateways are untried and none asked to wait; else exponential, half of it random.

        A straggler ends sooner than its lease, after which the gateway says to come back.
        """
        straggler = isinstance(error, AnotherStepRunningError)
        if error.retry_after is None and self._failures + 1 < self._gateways:
            return 0.0
        grown = self._config.initial_backoff * self._config.multiplier ** min(self._failures, 64)
        backoff = min(self._config.max_backoff, grown)
        asked = 0.0 if straggler else error.retry_after or 0.0
        return asked + backoff * (0.5 + 0.5 * self._draw())
