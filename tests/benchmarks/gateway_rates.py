"""The highest rate of steps that a gateway takes."""

from collections.abc import Sequence
from typing import Any

from gateway_load import Meter, Through, measured

P99_LIMIT_MS = 50.0


async def highest_rate(
    rates: Sequence[float], seconds: float, through: Through, meter: Meter, *, interval: float, even: bool
) -> dict[str, Any]:
    """Climbs until p99 of the first delta or of any delta passes the limit, or steps end slower than they begin."""
    best: dict[str, Any] = {"steps_per_second": 0}
    for rate in rates:
        sample = await measured(rate, seconds, through, meter, interval=interval, even=even)
        cuts = sample.percentiles()
        worst = max(cuts["first"]["p99"], cuts["delta"]["p99"])
        print(f"  {rate:5.0f} steps/s: p99 {worst:8.1f} ms, CPU a step {cpu_text(sample.cpu_ms)}", flush=True)
        if worst >= P99_LIMIT_MS or sample.saturated:
            break
        best = {
            "steps_per_second": rate,
            "p99_ms": worst,
            "messages_per_second": round(sample.messages / sample.seconds),
            "tokens_per_second": round(len(sample.delta) / sample.seconds),
            "cpu_ms_per_step": sample.cpu_ms,
        }
    return best


def cpu_text(cpu_ms: dict[str, float]) -> str:
    """CPU of a step by process, in words."""
    return ", ".join(f"{name} {spent:.2f} ms" for name, spent in cpu_ms.items())
