"""A pause that a client announced, as the store keeps it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HoldRecord:
    tool: str
    expect_seconds: float
    begin_ms: int
