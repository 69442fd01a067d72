"""Scores committed logs with the oracle, as a process of its own: torch and transformers stay out of the client.

python -m roost_operator.demo.scoring --model DIRECTORY < logs.json

Reads `{"logs": [[{prompt_ids, output_ids, sampling, grammar}]]}` and writes one JSON object, the verdict.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from roost_worker.engine.messages import SamplingParams
from roost_worker.grammar import GrammarError
from roost_worker.oracle import LoggedStep, Oracle, PositionReport, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    model_dir = parser.parse_args().model
    logs = json.load(sys.stdin)["logs"]
    print(json.dumps(score(model_dir, logs)))


def score(model_dir: Path, logs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The verdict on all logs together."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    oracle = Oracle(model_dir)
    reports: list[PositionReport] = []
    faults: list[str] = []
    for log in logs:
        try:
            reports += oracle.score([_step(step) for step in log])
        except GrammarError as error:
            faults.append(str(error))
    verdict = judge(reports)
    return {
        "positions": verdict.positions,
        "near_ties": verdict.near_ties,
        "wrong": verdict.wrong,
        "largest_gap": verdict.largest_gap,
        "token_exact": verdict.token_exact and not faults,
        "faults": faults,
    }


def _step(step: dict[str, Any]) -> LoggedStep:
    sampling = dict(step["sampling"])
    sampling["stop_token_ids"] = frozenset(sampling["stop_token_ids"])
    return LoggedStep(step["prompt_ids"], step["output_ids"], SamplingParams(**sampling), step["grammar"])


if __name__ == "__main__":
    main()
