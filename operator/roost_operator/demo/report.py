"""The demo's result as one JSON document, computed from the client's journal. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roost_operator.demo.journal import Findings, Receipt
from roost_operator.demo.verify import Verification

VICTIMS = ("worker", "gateway", "redis")
"""What is killed while steps run."""
PASSING_SECONDS = 5.0
"""What a held step may take beyond the longest hold, since it still has to find room."""


@dataclass(frozen=True, slots=True)
class SpikeResult:
    """What the report on the spike is computed from."""

    agents: int
    steps_planned: int
    steps_sent: int
    receipts: Sequence[Receipt]
    findings: Findings
    return_seconds: float
    """From the return of all agents until the last one had its answer."""
    hold_limit_seconds: float
    """Longest time for which the pool holds a step while the working set is full."""

    @property
    def longest_wait_seconds(self) -> float:
        """In the gateways, for whatever reason."""
        return max((receipt.queue_ms for receipt in self.receipts), default=0) / 1000

    @property
    def longest_hold_seconds(self) -> float:
        return max((receipt.queue_ms for receipt in self.receipts if receipt.held), default=0) / 1000

    @property
    def holds_are_bounded(self) -> bool:
        return self.longest_hold_seconds <= self.hold_limit_seconds + PASSING_SECONDS

    @property
    def passed(self) -> bool:
        """Whether every agent had its answer, nothing was lost, doubled or wrong, and no step was held for too long."""
        return len(self.receipts) == self.steps_planned and self.findings.clean and self.holds_are_bounded


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the report is computed from."""

    sessions: int
    steps_planned: int
    steps_sent: int
    receipts: Sequence[Receipt]
    findings: Findings
    verification: Verification
    evicted: int
    """Sessions evicted through the API."""
    redis_restarts: int
    killed: Sequence[str]
    """What was killed while steps ran, in order."""
    bfloat16: dict[str, Any]
    stage_seconds: dict[str, float]
    """Duration of the start, of the agents, of the spike, and of the verification with the bf16 scene."""
    spike: SpikeResult

    @property
    def passed(self) -> bool:
        """Whether everything was killed and nothing was lost, doubled or wrong, also in the spike."""
        whole = len(self.receipts) == self.steps_planned
        everything_killed = set(self.killed) == set(VICTIMS)
        clean = self.findings.clean and self.verification.token_exact and self.spike.passed
        return whole and clean and everything_killed


def report(result: DemoResult) -> dict[str, Any]:
    """The document that is the last line of stdout."""
    receipts = result.receipts
    return {
        "passed": result.passed,
        "sessions": result.sessions,
        "steps_committed": len(receipts),
        "steps_lost": len(result.findings.lost) + result.steps_planned - result.steps_sent,
        "steps_doubled": len(result.findings.doubled),
        "steps_wrong": len(result.findings.wrong),
        "generated_tokens": sum(len(receipt.streamed_ids) for receipt in receipts),
        "unconstrained_tokens": sum(len(receipt.streamed_ids) for receipt in receipts if not receipt.constrained),
        "longest_session_tokens": max((receipt.head_length for receipt in receipts), default=0),
        "evicted": result.evicted,
        "reconstructed": sum(receipt.reconstructed_tokens > 0 for receipt in receipts),
        "reconstructed_tokens": sum(receipt.reconstructed_tokens for receipt in receipts),
        "failovers_worker": sum(receipt.failovers_worker for receipt in receipts),
        "failovers_gateway": sum(receipt.failovers_gateway for receipt in receipts),
        "killed": list(result.killed),
        "redis_restarts": result.redis_restarts,
        "token_exact": result.verification.token_exact,
        "positions_checked": result.verification.positions,
        "near_ties": result.verification.near_ties,
        "largest_gap": result.verification.largest_gap,
        "ttft_ms": _times(receipts, lambda receipt: receipt.ttft_ms),
        "ttft_after_queue_ms": _times(receipts, lambda receipt: max(0.0, receipt.ttft_ms - receipt.queue_ms)),
        "cached_token_ratio": _cached_ratio(receipts),
        "spike": _spike(result.spike),
        "bfloat16": result.bfloat16,
        "stage_seconds": {name: round(seconds, 1) for name, seconds in result.stage_seconds.items()},
        "wall_seconds": round(sum(result.stage_seconds.values()), 1),
    }


def _spike(spike: SpikeResult) -> dict[str, Any]:
    return {
        "passed": spike.passed,
        "agents": spike.agents,
        "steps_committed": len(spike.receipts),
        "steps_lost": len(spike.findings.lost) + spike.steps_planned - spike.steps_sent,
        "steps_doubled": len(spike.findings.doubled),
        "steps_wrong": len(spike.findings.wrong),
        "steps_held": sum(receipt.held for receipt in spike.receipts),
        "reconstructed_tokens": sum(receipt.reconstructed_tokens for receipt in spike.receipts),
        "return_seconds": round(spike.return_seconds, 1),
        "longest_wait_seconds": round(spike.longest_wait_seconds, 1),
        "longest_hold_seconds": round(spike.longest_hold_seconds, 1),
        "hold_limit_seconds": spike.hold_limit_seconds,
    }


def conclusion(document: Mapping[str, Any]) -> str:
    """A report as a sentence for people."""
    done = f"{document['steps_committed']} steps of {document['sessions']} sessions are committed"
    if document["passed"]:
        tokens = f"each of the {document['generated_tokens']} tokens is the oracle's choice"
        spike = document["spike"]
        returned = f"{spike['agents']} agents returned at once and waited {spike['longest_wait_seconds']} s at most"
        return f"Passed: {done}, none lost, doubled or changed; {tokens}; {returned}."
    faults = [f"{document[f'steps_{fault}']} {fault}" for fault in ("lost", "doubled", "wrong")]
    faults = [fault for fault in faults if not fault.startswith("0 ")]
    faults += [f"no {name} was killed while steps ran" for name in VICTIMS if name not in document["killed"]]
    if not document["token_exact"]:
        faults.append("some tokens are not the oracle's choice")
    faults += _spike_faults(document["spike"])
    return f"Failed: {done}; {', '.join(faults) or 'not every step was answered'}."


def _spike_faults(spike: Mapping[str, Any]) -> list[str]:
    """What was wrong with the spike, in words; nothing when it passed."""
    if spike["passed"]:
        return []
    counts = {fault: spike[f"steps_{fault}"] for fault in ("lost", "doubled", "wrong")}
    faults = [f"{count} {fault} in the spike" for fault, count in counts.items() if count]
    if spike["longest_hold_seconds"] > spike["hold_limit_seconds"] + PASSING_SECONDS:
        faults.append(f"a step was held for {spike['longest_hold_seconds']} s in the spike")
    return faults or ["not every agent of the spike had its answer"]


def percentile(values: Iterable[float], share: float) -> float | None:
    """Nearest-rank percentile, or None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _times(receipts: Sequence[Receipt], time_of: Callable[[Receipt], float]) -> dict[str, dict[str, float | None]]:
    """Times of steps whose log was in the cache (hot), and of those that had to rebuild some of it (cold)."""
    continued = [receipt for receipt in receipts if receipt.index > 0]
    hot = [time_of(receipt) for receipt in continued if receipt.reconstructed_tokens == 0]
    cold = [time_of(receipt) for receipt in continued if receipt.reconstructed_tokens > 0]
    return {"hot": _spread(hot), "cold": _spread(cold)}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    percentiles = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
    return {name: None if value is None else round(value, 1) for name, value in percentiles.items()}


def _cached_ratio(receipts: Sequence[Receipt]) -> float:
    """Share of all context tokens that were in a worker's cache."""
    cached = sum(receipt.cached_tokens for receipt in receipts)
    context = cached + sum(receipt.prompt_tokens + receipt.reconstructed_tokens for receipt in receipts)
    return round(cached / context, 4) if context else 0.0
