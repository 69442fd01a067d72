"""Roost's engine on one GPU: tokens per second, the host's share of a step, equal tokens, a profile.

    .venv/bin/python tests/benchmarks/bench_gpu.py                          # on a GPU: all parts, all kernels
    .venv/bin/python tests/benchmarks/bench_gpu.py --parts decode profile --kernels torch
    .venv/bin/python tests/benchmarks/bench_gpu.py --tiny                   # seconds, on a CPU

It needs neither Ray nor Redis nor the network: weights are random, in the shape of Qwen3-0.6B. Parts, each for every
one of `--kernels`:

- `offline` is nano-vllm's benchmark (https://github.com/GeeeekExplorer/nano-vllm/blob/main/bench.py): 256 sequences of
  random ids, all there from the start, prompts and outputs of 100 to 1,024 tokens each, none ends early. Greedy, unless
  `--temperature 0.6` draws as nano-vllm does. The rate is of output alone, over all of the time.
- `decode`: tokens per second while 1, 8 and 32 sequences decode behind 512 tokens each, and the host's share of a step:
  1 - device's busy time / time of a step. Busy time is that of steps under torch's profiler, the time of a step is that
  of others without it. None on a CPU.
- `profile`: what takes the device's time in a step with the most rows, and how many launches the host makes for it.
- `equal`: whether greedy output is that of the first of `--kernels`, in float32, since bfloat16 leaves near ties. With
  captured graphs among the kernels this is "graphs on and off give equal tokens". Of the first difference the margin is
  said: by how many nats the reference's token was ahead of the next one.

No part goes on for more than `--seconds`, besides its warm-up. One that fails says why, the others go on, and the exit
status is 1. Goals of speed are judged at their own sizes, in bfloat16 on a GPU. The last line of stdout is one JSON
document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import importlib.metadata
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("proto", "worker")]

import gpu_parts
from engine_in_process import margin, open_engine
from figures import emit, machine
from gpu_summary import PARTS, PUBLISHED, TINY, Sizes, agreement, judged_goals
from gpu_table import described, print_table
from model_shapes import SHAPES, write_shape

from roost_worker.config import DTYPES, KERNELS
from roost_worker.engine.engine import Engine

REFERENCE = "torch"
"""What other kernels are compared with by default."""
CHOICE = "auto"
"""Chooses among the others, so that it need not be measured by default."""

Result = Mapping[str, Any]
"""What a part measured with some kernels, or `error`: why it did not."""


class Bench:
    """Measures each choice of kernels on engines of its own, one after the other.

    Args:
        folder: of the model.
        arguments: those of the command line.
    """

    def __init__(self, folder: Path, sizes: Sizes, arguments: argparse.Namespace) -> None:
        self._sizes = sizes
        self._seconds: float = arguments.seconds
        self._temperature: float = arguments.temperature
        self._kernels: list[str] = arguments.kernels
        self._open = partial(open_engine, folder, sizes=sizes)
        self._dtype, self._equal_dtype = arguments.dtype, arguments.equal_dtype
        self._parts: list[str] = arguments.parts

    def run(self) -> dict[str, dict[str, Result]]:
        """Return the results of all parts that were asked for, by part and kernels."""
        results: dict[str, dict[str, Result]] = {part: {} for part in PARTS if part in self._parts}
        for kernels in self._kernels:
            for part, result in self._measured(kernels).items():
                results[part][kernels] = result
        if "equal" in results:
            results["equal"] = self._compared()
        return results

    def _measured(self, kernels: str) -> dict[str, Result]:
        """Measure the parts that share an engine."""
        measures: dict[str, Callable[[Engine], Result]] = {
            "offline": lambda engine: gpu_parts.offline(engine, self._sizes, self._seconds, self._temperature),
            "decode": lambda engine: gpu_parts.decode(engine, self._sizes, self._seconds),
            "profile": lambda engine: gpu_parts.profile(engine, self._sizes, self._seconds),
        }
        wanted = {part: measure for part, measure in measures.items() if part in self._parts}
        if not wanted:
            return {}
        results: dict[str, Result] = {}

        def measure_all() -> Result:
            with self._open(kernels, self._dtype) as engine:
                for part, measure in wanted.items():
                    results[part] = _attempt(f"{part}, {kernels}", partial(measure, engine))
            return {}

        failure = _attempt(f"engine, {kernels}", measure_all)
        return {part: results.get(part, failure) for part in wanted}

    def _compared(self) -> dict[str, Result]:
        """Compare greedy output of each other choice of kernels with that of the first."""
        reference, *others = self._kernels
        if not others:
            print("equal: there is one choice of kernels, nothing to compare it with", flush=True)
            return {}
        expected = _attempt(f"equal, {reference}", partial(self._outputs, reference))
        return {
            kernels: _attempt(f"equal, {kernels}", partial(self._comparison, reference, expected, kernels))
            for kernels in others
        }

    def _outputs(self, kernels: str) -> Result:
        with self._open(kernels, self._equal_dtype) as engine:
            prompts, outputs = gpu_parts.greedy_outputs(engine, self._sizes, self._seconds)
            return {"prompts": prompts, "outputs": outputs}

    def _comparison(self, reference: str, expected: Result, kernels: str) -> Result:
        if "error" in expected:
            return expected
        result = {"reference": reference, **agreement(expected["outputs"], self._outputs(kernels)["outputs"])}
        if first := result["first_difference"]:
            number, token = first["sequence"], first["token"]
            with self._open(reference, self._equal_dtype) as engine:
                context = expected["prompts"][number] + expected["outputs"][number][:token]
                first["margin_nats"] = round(margin(engine, context), 6)
        return result


def _attempt(what: str, measure: Callable[[], Result]) -> Result:
    """Return what `measure` does, or why it failed."""
    try:
        result = measure()
    except Exception as error:  # whatever is broken, the other parts may still say something
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    if text := described(result):
        print(f"{what}: {text}", flush=True)
    return result


def _sizes(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Sizes:
    preset = TINY if arguments.tiny else PUBLISHED
    given = {field.name: getattr(arguments, field.name) for field in fields(Sizes)}
    given = {name: tuple(size) if isinstance(size, list) else size for name, size in given.items() if size is not None}
    try:
        return replace(preset, **given)
    except ValueError as error:
        parser.error(str(error))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    is_cuda = torch.cuda.is_available()
    kernels = [REFERENCE, *(name for name in KERNELS if name not in (REFERENCE, CHOICE) and is_cuda)]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=kernels, help=f"default: {' '.join(kernels)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a part, for one choice of kernels")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--equal-dtype", choices=DTYPES, default="float32")
    parser.add_argument("--temperature", type=float, default=0.0, help="of `offline`")
    parser.add_argument("--weights", type=Path, help="folder that model_shapes.py has filled, in --shape")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, default=not is_cuda)
    group = parser.add_argument_group("sizes", "by default those of the goals, or with --tiny small ones")
    group.add_argument("--shape", choices=sorted(SHAPES))
    group.add_argument("--rows", type=int, nargs="+")
    for field in fields(Sizes):
        if field.name not in ("shape", "rows"):
            group.add_argument(f"--{field.name.replace('_', '-')}", type=int)
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    sizes = _sizes(parser, arguments)
    is_cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.weights or Path(temporary)
        if arguments.weights is None:
            write_shape(sizes.shape, folder)
        results = Bench(folder, sizes, arguments).run()
    is_published = is_cuda and sizes == PUBLISHED and arguments.dtype == "bfloat16"
    goals = judged_goals(results, is_published=is_published)
    print_table(results, goals)
    emit(
        {
            "benchmark": "gpu",
            "machine": machine(),
            "device": torch.cuda.get_device_name() if is_cuda else "cpu",
            "torch": torch.__version__,
            "triton": _version("triton"),
            "dtype": arguments.dtype,
            "sizes": asdict(sizes),
            "parts": results,
            "goals": goals,
        }
    )
    failed = any("error" in result for by_kernels in results.values() for result in by_kernels.values())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
