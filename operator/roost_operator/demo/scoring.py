"""Scores committed logs with the oracle, in its own process, so that the client imports no torch and transformers.

python -m roost_operator.demo.scoring --model DIRECTORY --threads N

Each line of stdin is a list of logs, each a list of steps `{prompt_ids, output_ids, sampling, grammar}`. Each is
answered with a line of stdout: the verdict on all of them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from roost_worker.engine.messages import SamplingParams
from roost_worker.grammar import GrammarError
from roost_worker.oracle import JudgedStep, Oracle, PositionReport, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    oracle = _load(arguments.model, arguments.threads)
    for line in sys.stdin:
        print(json.dumps(score(oracle, json.loads(line))), flush=True)


def _load(model_dir: Path, threads: int) -> Oracle:
    import torch

    torch.set_num_threads(threads)
    return Oracle(model_dir)


def score(oracle: Oracle, logs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The verdict on all logs together."""
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


def _step(step: dict[str, Any]) -> JudgedStep:
    sampling = dict(step["sampling"])
    sampling["stop_token_ids"] = frozenset(sampling["stop_token_ids"])
    return JudgedStep(step["prompt_ids"], step["output_ids"], SamplingParams(**sampling), step["grammar"])


if __name__ == "__main__":
    main()
