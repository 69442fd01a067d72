"""Counters of what the engine does, and estimates of how fast."""

from dataclasses import dataclass, field

WEIGHT = 0.2
"""Share of the newest measurement in a moving estimate."""


@dataclass(slots=True)
class Rate:
    """Moving estimate of a rate per second; 0 until known."""

    value: float = 0.0

    def add(self, count: float, seconds: float) -> None:
        """Record that `count` things took `seconds`; 0 seconds, of a coarse clock, are ignored."""
        if count > 0 and seconds > 0:
            rate = count / seconds
            self.value = self.value + WEIGHT * (rate - self.value) if self.value else rate


@dataclass(slots=True)
class Meter:
    """Counters since the engine's start, named as in `EngineStats`."""

    lookup_tokens: int = 0
    hit_tokens: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    right_draft_tokens: int = 0
    prefilled_tokens: int = 0
    batches: int = 0
    prefill: Rate = field(default_factory=Rate)
    copy: Rate = field(default_factory=Rate)
    """Blocks per second, between the device and host memory."""
    decode: Rate = field(default_factory=Rate)

    def add_batch(self, prefilled: int, generated: int, drawing: int, seconds: float) -> None:
        """Record a batch that prefilled and generated this many tokens, for `drawing` requests, in `seconds`.

        A batch with any prefill measures the rate of prefill, any other that generates the rate at which one request
        decodes.
        """
        self.batches += 1
        self.prefilled_tokens += prefilled
        self.generated_tokens += generated
        if prefilled:
            self.prefill.add(prefilled, seconds)
        elif generated:
            self.decode.add(generated / drawing, seconds)
