"""The demo's result as one JSON document, computed from the client's journal. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roost_operator.demo.journal import Findings, Receipt
from roost_operator.demo.verify import Verdict

VICTIMS = ("worker", "gateway", "redis")
"""What is killed while steps run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the report is made of."""

    sessions: int
    steps_planned: int
    steps_sent: int
    receipts: Sequence[Receipt]
    findings: Findings
    verdict: Verdict
    evicted: int
    """Sessions evicted through the API."""
    redis_restarts: int
    killed: Sequence[str]
    """What was killed while steps ran, in order."""
    bfloat16: dict[str, Any]
    stage_seconds: dict[str, float]
    """Of starting, of the agents, of the verification with the bf16 scene."""

    @property
    def passed(self) -> bool:
        """Whether everything was killed, nothing lost, nothing doubled and nothing wrong."""
        whole = len(self.receipts) == self.steps_planned
        everything_killed = set(self.killed) == set(VICTIMS)
        return whole and self.findings.clean and self.verdict.token_exact and everything_killed


def report(outcome: Outcome) -> dict[str, Any]:
    """The document that is the last line of stdout."""
    receipts = outcome.receipts
    return {
        "passed": outcome.passed,
        "sessions": outcome.sessions,
        "steps_committed": len(receipts),
        "steps_lost": len(outcome.findings.lost) + outcome.steps_planned - outcome.steps_sent,
        "steps_doubled": len(outcome.findings.doubled),
        "steps_wrong": len(outcome.findings.wrong),
        "generated_tokens": sum(len(receipt.streamed_ids) for receipt in receipts),
        "unconstrained_tokens": sum(len(receipt.streamed_ids) for receipt in receipts if not receipt.constrained),
        "longest_session_tokens": max((receipt.head_length for receipt in receipts), default=0),
        "evicted": outcome.evicted,
        "reconstructed": sum(receipt.reconstructed_tokens > 0 for receipt in receipts),
        "reconstructed_tokens": sum(receipt.reconstructed_tokens for receipt in receipts),
        "failovers_worker": sum(receipt.failovers_worker for receipt in receipts),
        "failovers_gateway": sum(receipt.failovers_gateway for receipt in receipts),
        "killed": list(outcome.killed),
        "redis_restarts": outcome.redis_restarts,
        "token_exact": outcome.verdict.token_exact,
        "positions_checked": outcome.verdict.positions,
        "near_ties": outcome.verdict.near_ties,
        "largest_gap": outcome.verdict.largest_gap,
        "ttft_ms": _times(receipts, lambda receipt: receipt.ttft_ms),
        "ttft_after_queue_ms": _times(receipts, lambda receipt: max(0.0, receipt.ttft_ms - receipt.queue_ms)),
        "cached_token_ratio": _cached_ratio(receipts),
        "bfloat16": outcome.bfloat16,
        "stage_seconds": {name: round(seconds, 1) for name, seconds in outcome.stage_seconds.items()},
        "wall_seconds": round(sum(outcome.stage_seconds.values()), 1),
    }


def conclusion(document: Mapping[str, Any]) -> str:
    """What a report says, as a sentence for people."""
    done = f"{document['steps_committed']} steps of {document['sessions']} sessions are committed"
    if document["passed"]:
        tokens = f"each of the {document['generated_tokens']} tokens is the oracle's choice"
        return f"Passed: {done}, none lost, doubled or changed; {tokens}."
    faults = [f"{document[f'steps_{fault}']} {fault}" for fault in ("lost", "doubled", "wrong")]
    faults = [fault for fault in faults if not fault.startswith("0 ")]
    faults += [f"no {name} was killed while steps ran" for name in VICTIMS if name not in document["killed"]]
    if not document["token_exact"]:
        faults.append("some tokens are not the oracle's choice")
    return f"Failed: {done}; {', '.join(faults) or 'not every step was answered'}."


def percentile(values: Iterable[float], share: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _times(receipts: Sequence[Receipt], time_of: Callable[[Receipt], float]) -> dict[str, dict[str, float | None]]:
    """Of steps that found their log in the cache (hot), and of those that had to rebuild some of it (cold)."""
    continued = [receipt for receipt in receipts if receipt.index > 0]
    hot = [time_of(receipt) for receipt in continued if receipt.reconstructed_tokens == 0]
    cold = [time_of(receipt) for receipt in continued if receipt.reconstructed_tokens > 0]
    return {"hot": _spread(hot), "cold": _spread(cold)}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    found = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
    return {name: None if value is None else round(value, 1) for name, value in found.items()}


def _cached_ratio(receipts: Sequence[Receipt]) -> float:
    """Share of all context tokens that a worker found in its cache."""
    cached = sum(receipt.cached_tokens for receipt in receipts)
    context = cached + sum(receipt.prompt_tokens + receipt.reconstructed_tokens for receipt in receipts)
    return round(cached / context, 4) if context else 0.0
