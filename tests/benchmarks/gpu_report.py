"""Prints what the steps of gpu.sh came to, and one JSON document; exits with 1 when a step failed.

    .venv/bin/python tests/benchmarks/gpu_report.py FOLDER

`FOLDER/steps.tsv` has a line for each step: name, exit status, seconds, why it was left out. `FOLDER/NAME.log` is its
output; where that has the JSON document of a benchmark, the document is part of the report, with its goals.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figures import emit, in_words, judged

TIMED_OUT = (124, 137)
"""Exit statuses of what `timeout` has ended."""
PREFILL_SHARE = 0.9
"""Of transformers' tokens per second, in every cell."""


@dataclass(frozen=True)
class Step:
    """What became of one step."""

    name: str
    status: int
    seconds: int
    summary: str
    """Why it was left out, how many goals are met, or the last line of the output."""
    document: dict[str, Any] | None
    """Of a benchmark."""
    is_left_out: bool

    @property
    def outcome(self) -> str:
        if self.is_left_out:
            return "left out"
        if self.status in TIMED_OUT:
            return "timed out"
        return f"failed ({self.status})" if self.status else "passed"


def read_step(line: str, folder: Path) -> Step:
    """Read a line of `steps.tsv`, and the step's log if there is one."""
    name, status, seconds, reason = line.rstrip("\n").split("\t")
    log = folder / f"{name}.log"
    output = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    document = _last_document(output)
    return Step(name, int(status), int(seconds), reason or _summary(output, document), document, bool(reason))


def _summary(output: Sequence[str], document: Mapping[str, Any] | None) -> str:
    if document is not None:
        met = [goal["met"] for goal in document.get("goals", ())]
        return f"{sum(met)} of {len(met)} goals met"
    texts = [text for text in output if text.strip()]
    return texts[-1].strip(" =") if texts else ""


def _last_document(output: Sequence[str]) -> dict[str, Any] | None:
    """The JSON document of a benchmark. What other programs write to stderr may follow it."""
    lines = [line for line in output if line.startswith('{"benchmark":')]
    document: dict[str, Any] | None = json.JSONDecoder().raw_decode(lines[-1])[0] if lines else None
    return document


def goals_of(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return the goals of all documents, and that of prefill where the engine's benchmark has measured transformers."""
    documents = [step.document for step in steps if step.document]
    goals = [goal for document in documents for goal in document.get("goals", ())]
    return goals + [goal for document in documents for goal in _prefill_goals(document)]


def _prefill_goals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The goal of each choice of Roost's kernels on a GPU, by its worst cell. Other benchmarks' documents have none."""
    if document.get("engines", {}).get("transformers", {}).get("device", "cpu") == "cpu":
        return []
    shares = defaultdict[str, list[float]](list)
    for phases in document.get("tokens_per_second", {}).get("nothing", {}).values():
        medians = {engine: rate["median"] for engine, rate in phases.get("prefill", {}).items()}
        for engine in medians:
            if engine.startswith("roost"):
                shares[engine].append(medians[engine] / medians["transformers"])
    return [
        judged(f"{engine}: prefill of transformers', worst cell", min(cells), at_least=PREFILL_SHARE)
        for engine, cells in shares.items()
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "steps.tsv").open(encoding="utf-8") as lines:
        steps = [read_step(line, folder) for line in lines]
    goals = goals_of(steps)
    print(f"\n{'step':<12} {'outcome':<12} {'seconds':>7}  summary")
    for step in steps:
        print(f"{step.name:<12} {step.outcome:<12} {step.seconds:>7}  {step.summary}")
    for goal in goals:
        print(in_words(goal))
    emit(
        {"benchmark": "gpu.sh", "steps": [{**asdict(step), "outcome": step.outcome} for step in steps], "goals": goals}
    )
    sys.exit(1 if any(step.status for step in steps) else 0)


if __name__ == "__main__":
    main()
