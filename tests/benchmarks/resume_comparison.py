"""Runs of `bench_resume` of this tree and of another commit in turn, each with its own pool and its own script."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from figures import spread
from other_tree import THIS_TREE, other_tree, run_benchmark


def compare(commit: str, rounds: int, options: Sequence[str]) -> dict[str, Any]:
    """Run both benchmarks with `options` in every round."""
    trees = [THIS_TREE, other_tree(commit)]
    runs: dict[str, list[dict[str, Any]]] = {tree.name: [] for tree in trees}
    for _ in range(rounds):
        for tree in trees:
            runs[tree.name].append(run_benchmark(tree, "bench_resume.py", *options))
    return {"rounds": rounds, "contexts": compared(runs, THIS_TREE.name, commit)}


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]], name: str, other: str) -> dict[str, Any]:
    """By context and way, each tree's median first-token times in ms, and the ratio of tree `name` to tree `other`."""
    contexts: dict[str, Any] = {}
    for context, result in runs[name][0]["contexts"].items():
        for way in result["ttft_ms"]:
            times = {
                tree: [run["contexts"][context]["ttft_ms"][way]["median"] for run in rounds]
                for tree, rounds in runs.items()
            }
            ratio = statistics.median(times[name]) / statistics.median(times[other])
            spreads = {tree: spread(medians) for tree, medians in times.items()}
            contexts.setdefault(context, {})[way] = {**spreads, "ratio": round(ratio, 3)}
    return contexts
