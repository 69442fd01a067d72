"""Counts what the engine does and estimates how fast."""

from dataclasses import dataclass, field

WEIGHT = 0.2
"""Share of the newest measurement in a moving estimate."""


@dataclass(slots=True)
class Rate:
    """Moving estimate of a rate per second; 0 until known."""

    value: float = 0.0

    def add(self, count: float, seconds: float) -> None:
        """`count` things happened in `seconds`; a clock too coarse to see them says nothing."""
        if count > 0 and seconds > 0:
            measured = count / seconds
            self.value = self.value + WEIGHT * (measured - self.value) if self.value else measured


@dataclass(slots=True)
class Meter:
    """Counters from the engine's start, in the words of `EngineStats`."""

    lookup_tokens: int = 0
    hit_tokens: int = 0
    generated_tokens: int = 0
    prefilled_tokens: int = 0
    steps: int = 0
    prefill: Rate = field(default_factory=Rate)
    decode: Rate = field(default_factory=Rate)

    def add_step(self, prefilled: int, generated: int, seconds: float) -> None:
        """A batch of `prefilled` prompt tokens that drew `generated` tokens ran in `seconds`.

        A batch with any prefill measures prefill, a pure one measures decoding of one running request.
        """
        self.steps += 1
        self.prefilled_tokens += prefilled
        self.generated_tokens += generated
        if prefilled:
            self.prefill.add(prefilled, seconds)
        else:
            self.decode.add(1, seconds)
